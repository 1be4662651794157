"""A detector from somebody's own package, as the README shows it: found by its entry point, checked, trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests_support import ROOT, with_locks_of_its_own

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MINE = '''\
"""A detector of our own: YOLO's network with fields of its own."""

from typing import ClassVar

from pydantic import Field

from paretune.detectors.yolox.detector import Yolo


class Mine(Yolo):
    """Our own."""

    name: ClassVar[str] = "mine"
    sharpness: float = Field(default=0.5, ge=0, le=1)
    """A field of our own."""
'''
JOB = """\
dataset: {shapes: {train: 16, val: 8, test: 8, size: 96x64}}
detector: {mine: {variant: nano, depthwise: false, width: 0.125, sharpness: SHARPNESS}}
input_size: 96x64
training: {epochs: 1, batch_size: 8, threads: 1, device: cpu}
space: space.yaml
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An installed package, as pip leaves one."""
    site = tmp_path / "site"
    (site / "mypackage").mkdir(parents=True)
    (site / "mypackage" / "__init__.py").write_text("")
    (site / "mypackage" / "mine.py").write_text(MINE)
    facts = site / "mypackage-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[paretune.detector]\nmine = mypackage.mine:Mine\n")
    (tmp_path / "space.yaml").write_text("input_size: 96x64\nsteps: []\nruntime: eager\n")
    for name, value in (("good", "0.7"), ("bad", "1.7")):
        (tmp_path / f"{name}.yaml").write_text(JOB.replace("SHARPNESS", value))
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = with_locks_of_its_own(folder, os.pathsep.join([str(ROOT / "platform"), str(folder / "site")]))
    environment = {**os.environ, "PYTHONPATH": path, "HOME": str(folder), "MPLCONFIGDIR": str(folder / "mpl")}
    command = [sys.executable, "-m", "paretune", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_it_is_listed_checked_and_trained(package: Path) -> None:
    listed = json.loads(run(package, "plugins", "detector", "--json").stdout)
    assert "mine" in json.dumps(listed)
    assert "sharpness" in json.dumps(listed)
    assert run(package, "check", "good.yaml").returncode == 0
    refused = run(package, "check", "bad.yaml")
    assert refused.returncode == 2
    assert "bad.yaml:2: detector.mine.sharpness" in refused.stderr
    trained = run(package, "train", "good.yaml", "--name", "own")
    assert trained.returncode == 0, trained.stderr
    figures = run(package, "evaluate", "runs/trainings/own/artefact", "--split", "test", "--json")
    assert json.loads(figures.stdout)["images"] == 8


def test_what_is_missing_is_told_in_one_line(package: Path) -> None:
    code = package / "site/mypackage/mine.py"
    base = "from typing import ClassVar\nfrom paretune.detectors.base import Detector\n\n\nclass Mine(Detector):\n"
    (package / "own.yaml").write_text(
        JOB.partition("detector")[0] + "detector: mine\ninput_size: 96x64\nspace: space.yaml\n"
    )
    members = {
        "name": '    name: ClassVar[str] = "mine"\n',
        "preprocess": "    preprocess = property(lambda self: None)\n",
        **{
            name: f"    def {name}(self, *_): ...\n"
            for name in ("build", "decode", "loss", "protected", "prune_view", "raw_names", "size_unsupported_reason")
        },
    }
    every = (
        "build, decode, preprocess, protected, prune_view, raw_names, size_unsupported_reason, loss (or training_loss)"
    )
    for left_out, missing in [
        (set(members) - {"name"}, f"write {every}"),
        ({"decode", "loss"}, "write decode, loss (or training_loss)"),
        ({"loss"}, "write loss (or training_loss)"),
        ({"name"}, "write name: ClassVar[str]"),
    ]:
        code.write_text(base + "".join(text for name, text in members.items() if name not in left_out))
        refused = run(package, "check", "own.yaml")
        assert refused.returncode == 2
        (line,) = refused.stderr.splitlines()
        assert line.startswith("own.yaml:2: detector: ")
        assert "mypackage.mine:Mine" in line
        assert missing in line
    code.write_text(base + "".join(members.values()).replace("property(", "("))
    assert "preprocess as a property" in run(package, "check", "own.yaml").stderr
    code.write_text(base + "".join(members.values()).replace("def loss", "def training_loss"))
    accepted = run(package, "check", "own.yaml")
    assert accepted.returncode == 0, accepted.stderr
    (package / "own.yaml").write_text((package / "own.yaml").read_text() + "training: {box_loss: giou}\n")
    assert "mine offers its own only" in run(package, "check", "own.yaml").stderr
    code.write_text("Mine = dict\n")
    assert "is no class of a plug-in" in run(package, "check", "own.yaml").stderr


def test_without_the_package_its_name_is_unknown(package: Path) -> None:
    import shutil

    shutil.rmtree(package / "site")
    refused = run(package, "check", "good.yaml")
    assert refused.returncode == 2
    assert "mine" in refused.stderr
    assert "yolo" in refused.stderr
