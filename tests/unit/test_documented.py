"""Every command that the READMEs show is one that the program takes, with files that are there."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from paretune.cli.main import build_parser, main
from paretune.workflows.check import check_files
from tests_support import ROOT
from tests_support_documented import READMES, Block, blocks, is_ours, lines, spoken, words

SHELL = [block for file in READMES for block in blocks(file) if block.language == "bash"]
COMMANDS = [pytest.param(line, id=f"{block.place} {line[:60]}") for block in SHELL for line in lines(block)]
SPOKEN = [pytest.param(quoted, id=f"{file} {quoted}") for file in READMES for quoted in sorted(set(spoken(file)))]
PLACEHOLDERS = {"JOB.yaml": "jobs/quickstart.yaml", "…": "jobs/quickstart.yaml", "NAME": "quickstart"}
"""Words of the running text that stand for the reader's own."""
OTHERS = {"source", "export", "python", "ray", "(umask"}
"""Programs that are not ours: tests/system/test_documented.py starts them."""


def parse(given: list[str]) -> None:
    """Read a command line as the program does."""
    try:
        build_parser().parse_args(given)
    except SystemExit as stop:
        pytest.fail(f"paretune {shlex.join(given)}: the command line ends with {stop.code}")


def test_something_is_read() -> None:
    """A change of the READMEs' form must not leave these tests without anything to do."""
    assert len(COMMANDS) > 40
    assert len(SPOKEN) > 15
    assert {shlex.split(line)[0] for param in COMMANDS for line in param.values if not is_ours(line)} <= {
        "make",
        *OTHERS,
    }


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_a_readme_is_taken(line: str) -> None:
    first, *rest = shlex.split(line, comments=True)
    if first == "make":
        done = subprocess.run(["make", "-n", *rest], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif is_ours(line):
        parse(words(line))
        for word in words(line):
            if word.startswith(("jobs/", "search_spaces/")):
                assert list(ROOT.glob(word)), f"{word} is not in the repository"
    else:
        assert first in OTHERS


@pytest.mark.parametrize("quoted", SPOKEN)
def test_a_command_of_the_running_text_is_taken(quoted: str) -> None:
    given = words(quoted)
    if given[:1] == ["plugins"] and "[" in quoted:  # [dataset|detector|…]: any one of them
        for kind in quoted[quoted.index("[") + 1 : quoted.index("]")].split("|"):
            assert main(["plugins", kind]) == 0
        return
    wanting = given == ["data", "check"] or len(given) == 1
    if wanting:  # a verb's name
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args([*given, "--help"])
        assert stop.value.code == 0
        return
    parse([PLACEHOLDERS.get(word, word) for word in given])


def test_what_the_readme_checks_is_right(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`check jobs/*.yaml search_spaces/*.yaml`, on a machine without anybody's photographs."""
    monkeypatch.chdir(ROOT)
    (line,) = {line for block in blocks("README.md") for line in lines(block) if "check jobs/*" in line}
    files = [str(file.relative_to(ROOT)) for word in words(line)[1:] for file in sorted(ROOT.glob(word))]
    assert main(["check", *files]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [one.partition(":")[0] for one in said] == files
    for file in files:
        (told,) = [one for one in said if one.startswith(f"{file}:")]
        unnamed = "???" in (ROOT / file).read_text()
        assert ("--set dataset." in told) == unnamed


@pytest.mark.parametrize(
    "block",
    [pytest.param(block, id=block.place) for file in READMES for block in blocks(file) if block.language == "yaml"],
)
def test_yaml_of_a_readme_is_a_job_or_a_space(block: Block, tmp_path: Path) -> None:
    """A fragment: with what every job or space has besides."""
    fields = yaml.safe_load(block.text)
    if {"resources", "targets"} & set(fields):
        space = f"space: {ROOT / 'search_spaces/quickstart.yaml'}"
        text = f"dataset: shapes\ndetector: yolo\ninput_size: 192x144\n{space}\n{block.text}"
    else:
        text = f"input_size: 192x144\nsteps: []\n{block.text}"
    file = tmp_path / "fragment.yaml"
    file.write_text(text)
    assert "right" in check_files([file])
