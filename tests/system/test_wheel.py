"""The built wheel, installed into an empty folder: all that it needs is in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests_support import ROOT, with_locks_of_its_own
from tests_support_records import comparison, fake_records, write_sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the built wheel is installed, without the packages that it needs."""
    made, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "-w", str(made), str(ROOT)], capture_output=True, text=True, check=False
    )
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("the build backend hatchling cannot be fetched here")
    assert built.returncode == 0, built.stderr
    (wheel,) = made.glob("paretune-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    return site


def paretune(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a folder that is no checkout."""
    path = with_locks_of_its_own(folder, str(site))
    environment = {**os.environ, "PYTHONPATH": path, "HOME": str(folder), "MPLCONFIGDIR": str(folder / "mpl")}
    command = [sys.executable, str(site / "bin" / "paretune"), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_it_holds_the_package_alone_and_all_of_it(site: Path) -> None:
    here = {path.relative_to(ROOT / "platform") for path in (ROOT / "platform/paretune").rglob("*") if path.is_file()}
    there = {path.relative_to(site) for path in (site / "paretune").rglob("*") if path.is_file()}
    assert {path for path in here if "__pycache__" not in path.parts} == {
        path for path in there if "__pycache__" not in path.parts
    }
    assert {path.name for path in site.iterdir()} - {"bin"} == {"paretune", "paretune-0.1.0.dist-info"}


def test_it_is_the_one_that_runs_and_checks_the_demo(site: Path, tmp_path: Path) -> None:
    code = "import paretune, paretune.testing; print(paretune.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(site / "paretune" / "__init__.py")
    checked = paretune(site, tmp_path, "check", str(ROOT / "jobs" / "quickstart.yaml"))
    assert checked.returncode == 0, checked.stderr
    assert paretune(site, tmp_path, "plugins").returncode == 0


def test_it_prints_a_front(site: Path, tmp_path: Path) -> None:
    from paretune.config.plan import read_plan
    from paretune.results.sweep_folder import new_sweep

    plan = read_plan(ROOT / "jobs" / "quickstart.yaml", {"output": str(tmp_path / "runs")})
    sweep = new_sweep(plan, "quickstart")
    write_sweep(sweep.folder, fake_records())
    sweep.comparison.write_text(json.dumps({**comparison(), "notes": []}))
    front = paretune(site, tmp_path, "front", "quickstart", "--json")
    assert front.returncode == 0, front.stderr
    assert json.loads(front.stdout)["baseline"]["trial"] == 0
    shown = paretune(site, tmp_path, "front", "quickstart")
    assert shown.returncode == 0, shown.stderr
    assert "hypervolume" in shown.stdout
