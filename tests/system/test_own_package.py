"""A package with plug-ins of every kind; its detector has group norms, a transposed convolution and no anchors.

Installed as pip leaves it, it is trained, compressed, exported, evaluated and swept from its entry point alone, and
keeps the contract that the package ``paretune.testing`` brings.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from paretune.compression import STEPS
from paretune.compression.prune.step import Prune
from paretune.core.devices import DEVICES
from paretune.core.types import InputSize
from paretune.data import DATASETS
from paretune.detectors import DETECTORS
from paretune.networks.network_files import load_network, save_network
from paretune.runtimes import RUNTIMES
from paretune.search.samplers import SAMPLERS
from paretune.testing import (
    DatasetContract,
    DetectorContract,
    DeviceContract,
    RuntimeContract,
    SamplerContract,
    StepContract,
)
from paretune.testing.samples import sample_context, sample_model
from tests_support import ROOT, with_locks_of_its_own

PACKAGE = ROOT / "tests" / "data" / "centre_detector"
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
sys.path.append(str(PACKAGE))
from centre_detector.dataset import Rectangles
from centre_detector.detector import Centre
from centre_detector.device import OpenCl
from centre_detector.runtime import OpenCv
from centre_detector.sampler import Sobol
from centre_detector.step import Shorten

JOB = """\
dataset: DATASET
detector: {centre: {width: 16}}
input_size: 96x64
training: {epochs: 12, batch_size: 8, threads: 1, device: cpu}
space: space.yaml
constraints: {map: {max_drop: 0.5}}
search: {allow_unlearned: true, trials: 5, sampler: sobol}
measuring: {repetitions: 2, spare: 0, seconds: 0.2, patience: 0, rounds: 2, energy: 0}
"""
SHAPES = "{shapes: {train: 96, val: 24, test: 24, size: 96x64, difficulty: 0}}"
SPACE = """\
steps:
  - name: slim
    choices:
      none: null
      pruned:
        - prune: {ratio: {low: 0.3, high: 0.6, step: 0.1}}
        - finetune: {epochs: 1, distill: {}}
        - shorten
deploy:
  choices:
    opencv: {runtime: opencv}
    onnxruntime_int8: {steps: [{quantize: {images: 8}}], runtime: onnxruntime}
    openvino_int8: {steps: [{quantize: {images: 8}}], runtime: openvino}
first:
  - {slim: pruned, slim.pruned.prune.ratio: 0.5, deploy: opencv}
  - {slim: pruned, slim.pruned.prune.ratio: 0.5, deploy: openvino_int8}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip leaves it: its files, and a dist-info with its entry points."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE / "centre_detector", folder / "centre_detector")
    facts = folder / f"centre_detector-{PROJECT['version']}.dist-info"
    facts.mkdir()
    text = f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: {PROJECT['version']}\n"
    (facts / "METADATA").write_text(text)
    points = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in rows.items())
        for group, rows in PROJECT["entry-points"].items()
    ]
    (facts / "entry_points.txt").write_text("\n".join(points))
    return folder


@pytest.fixture(autouse=True)
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find the package's rows too: tables read theirs once."""
    monkeypatch.syspath_prepend(site)
    for table in (DATASETS, DETECTORS, DEVICES, RUNTIMES, SAMPLERS, STEPS):
        for name, row in PROJECT["entry-points"][f"paretune.{table.kind}"].items():
            monkeypatch.setitem(table.rows, name, row)


class TestRectangles(DatasetContract):
    plugin = Rectangles(train=6, val=4, test=2)


class TestOpenCl(DeviceContract):
    plugin = OpenCl()


class TestOpenCv(RuntimeContract):
    plugin = OpenCv()


class TestSobol(SamplerContract):
    plugin = Sobol()


class TestShorten(StepContract):
    plugin = Shorten()
    idle: ClassVar = {"bits": 24}


class TestCentre(DetectorContract):
    plugin = Centre(width=16)

    test_loss_falls_when_trained_on_one_batch = pytest.mark.slow(
        DetectorContract.test_loss_falls_when_trained_on_one_batch
    )
    test_exports_prunes_and_quantizes = pytest.mark.slow(DetectorContract.test_exports_prunes_and_quantizes)

    def test_a_pruned_network_from_the_disk_is_pruned_again(self, subject: Centre, tmp_path: Path) -> None:
        size, step = InputSize(96, 64), Prune(ratio=0.3)
        once = step.apply(sample_model(subject, size), sample_context(tmp_path / "once", subject))
        assert once.network is not None
        save_network(once.network, tmp_path / "saved")
        read = replace(once, network=load_network(subject, 2, tmp_path / "saved"))
        twice = step.apply(read, sample_context(tmp_path / "twice", subject))
        assert (twice.params or 0) < (once.params or 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Path:
    """A folder with a job in which the detector is trained."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "own.yaml").write_text(JOB.replace("DATASET", SHAPES))
    (folder / "all.yaml").write_text(JOB.replace("DATASET", "rectangles"))
    (folder / "space.yaml").write_text(SPACE)
    run(folder, site, "train", "own.yaml", "--name", "own")
    return folder


def run(folder: Path, site: Path, *words: str) -> str:
    """Run a command in a folder, with the package installed; returns what it printed."""
    path = with_locks_of_its_own(folder, os.pathsep.join([str(ROOT / "platform"), str(site)]))
    environment = {**os.environ, "PYTHONPATH": path, "HOME": str(folder), "MPLCONFIGDIR": str(folder / "mpl")}
    command = [sys.executable, "-m", "paretune", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_is_trained_compressed_and_evaluated(place: Path, site: Path) -> None:
    trained = json.loads(run(place, site, "evaluate", "runs/trainings/own/artefact", "--json"))
    assert trained["metrics"]["map50"] > 0.05
    steps = ("prune={ratio: 0.4}", "finetune={epochs: 2}", "quantize={images: 8}")
    words = [word for step in steps for word in ("--step", step)]
    made = json.loads(run(place, site, "optimize", "runs/trainings/own", *words, "--out", "small", "--json"))
    assert made["params"] < 0.7 * 30704
    found = json.loads(run(place, site, "evaluate", "small", "--split", "test", "--data", "own.yaml", "--json"))
    assert found["images"] == 24
    assert found["metrics"]["map50"] > 0


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_sweep_of_plug_ins_alone(place: Path, site: Path) -> None:
    """Dataset, detector, step, runtime and sampler are the package's; the front has its own figures of each."""
    run(place, site, "sweep", "all.yaml", "--set", "training.epochs=3")
    front = json.loads(run(place, site, "front", "all", "--json"))
    records = [json.loads(file.read_text()) for file in sorted(place.glob("runs/all/trials/*/record.json"))]
    assert [record["failure"] for record in records] == [None] * 5
    assert records[2]["facts"]["runtime"].startswith("opencv ")
    assert "shorten" in str(records[2]["recipe"])
    assert front["front"]
    networks = [record["metrics"]["params"] for record in records]
    assert networks[2] < 0.7 * networks[0]
