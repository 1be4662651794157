"""The Markdown files are true: tables are what the code makes, links and named files are there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from paretune.detectors.base import Detector
from tests_support import ROOT

PACKAGE = ROOT / "platform" / "paretune"
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "platform", "platform/guides", "platform/deploy", "jobs", "search_spaces", "cluster")
    for path in (ROOT / folder).glob("*.md")
)
LONGEST = 150
"""Lines of README.md."""


def generator() -> ModuleType:
    """Return tests/tools/write_docs.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("write_docs", ROOT / "tests/tools/write_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = generator()


def prose(page: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub names them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", TOOL.FILES)
def test_tables_are_what_the_code_makes(page: str) -> None:
    text = (ROOT / page).read_text()
    assert TOOL.MARKED.search(text), f"{page} has no table"
    assert TOOL.renewed(text) == text, f"{page} is out of date: run `make docs`"


def test_every_table_is_somewhere_and_every_marker_is_read() -> None:
    marked = {page: re.findall(r"<!-- table: (.*?) -->", (ROOT / page).read_text()) for page in PAGES}
    assert {page for page, names in marked.items() if names} == set(TOOL.FILES)
    assert {name for names in marked.values() for name in names} == set(TOOL.TABLES)


def test_a_new_plugin_makes_the_tables_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    from paretune.runtimes import RUNTIMES

    monkeypatch.setitem(RUNTIMES.rows, "another", RUNTIMES.rows["eager"])
    text = (ROOT / "platform/reference.md").read_text()
    assert "`another`" not in text
    assert "`another`" in TOOL.renewed(text)


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= LONGEST


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    here = ROOT / page
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (here.parent / path).resolve() if path else here
        assert found.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(found), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_named_files_are_there(page: str) -> None:
    """A word in backquotes that names a Python, Markdown or TOML file, or ends with a slash below the package."""
    tracked = set(
        subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    )
    roots = ("", "platform/paretune/", "platform/", f"{Path(page).parent.as_posix()}/")
    for name in re.findall(r"`([\w./-]+\.(?:py|toml|md|html))`", prose(page)):
        known = any(f"{root}{name}".removeprefix("./") in tracked for root in roots)
        assert known or name in MADE_BY_THE_READER, f"{page}: {name} is not in the repository"


MADE_BY_THE_READER = {
    "compression/mystep.py",
    "mypackage/mystep.py",
    "pyproject.toml",
    "compared/profile.html",
    "advice/advice.html",
    "bundle/README.md",
    "detect.py",
    "detection_math.py",
    "front/front.html",
    "report.html",
    "report.md",
}
"""Files that the pages tell the reader to write, or that a command writes."""


def test_the_architecture_lists_every_package_in_the_order_of_the_layers() -> None:
    described = re.findall(r"^\| `(\w+)/` \|", (ROOT / "platform/README.md").read_text(), re.MULTILINE)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    assert described == [name for layer in layers for name in layer.split(" | ")]
    assert set(described) == {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}


def test_the_members_of_a_detector_are_those_of_its_base_class() -> None:
    text = (ROOT / "platform/README.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \|", text.partition("### A detector")[2].partition("\n### ")[0], re.MULTILINE)
    members = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert members >= {*Detector.__abstractmethods__, "name", "loss"}
    assert {name for name in members if not hasattr(Detector, name)} == set()
