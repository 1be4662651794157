"""Ray Train around the loop: the network arrives, a dead worker resumes, mistakes come back as what they are."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from paretune.core.errors import UserError
from paretune.core.types import Annotations, Data, Image, InputSize
from paretune.data.base import Dataset
from paretune.detectors.base import OWN, Losses
from paretune.detectors.yolox.detector import Yolo
from paretune.distributed.train_workers import train_with_ray
from paretune.networks.network_files import load_network
from paretune.training.history import read_history
from paretune.training.loop import train
from paretune.training.settings import Training
from paretune.training.training_job import TrainingJob
from paretune.training.worker import train_here

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]

TINY = Yolo(width=0.0625, depthwise=False)
SIZE = InputSize(64, 64)
TOLERANCE = 0.1
"""By how much the loss of two workers may differ from that of one with the same batch, in each epoch."""
SETTINGS = Training(epochs=3, batch_size=4, lr=4e-3, threads=1, device="cpu")


class Pictures:
    """Noise, each picture with one box."""

    classes = ("a", "b")
    ids: ClassVar[list[str]] = [str(number) for number in range(8)]

    def __len__(self) -> int:
        return len(self.ids)

    def size(self, index: int) -> tuple[int, int]:
        return 64, 64

    def image(self, index: int) -> Image:
        return np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)

    def annotations(self, index: int) -> Annotations:
        return Annotations(np.array([[8, 8, 40, 40]], np.float32), np.array([index % 2]), np.zeros(1, bool))


class Noise(Dataset):
    """A dataset that can go wrong in the worker."""

    name: ClassVar[str] = "noise"
    mistake: str | None = None
    """What the dataset says is wrong."""
    kill_once: str | None = None
    """A file; where it is missing, the worker that opens the dataset makes it and is killed."""

    def problems(self) -> list[str]:
        return []

    def open(self, cache: Path) -> Data:
        if self.mistake:
            raise UserError(self.mistake)
        split = Pictures()
        if self.kill_once:
            return Data(Pictures.classes, {"train": Deadly(Path(self.kill_once))}, "x")
        return Data(Pictures.classes, {"train": split}, "x")


class Diverging(Yolo):
    """Its loss is not a number."""

    def loss(
        self, raw: Sequence[torch.Tensor], annotations: Sequence[Annotations], size: InputSize, losses: Losses = OWN
    ) -> dict[str, torch.Tensor]:
        return {name: term * torch.nan for name, term in super().loss(raw, annotations, size, losses).items()}


class Deadly(Pictures):
    """Kills the process that begins an epoch when one has been saved."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __len__(self) -> int:
        if not self.mark.exists() and (self.mark.parent / "baseline" / "unfinished" / "state.pt").exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__len__()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of our own, whatever other runs on the machine; its workers are as quick as the test."""
    root = Path(__file__).parent.parent.parent
    environment = {"PYTHONPATH": os.pathsep.join([str(root / "platform"), str(Path(__file__).parent)])}
    folder = tempfile.mkdtemp(prefix="rt-")  # short: socket paths are limited
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        ray = pytest.importorskip("ray")
        ray.init(
            address="local",
            num_cpus=2,
            _temp_dir=folder,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": environment},
        )
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def carried_by_value() -> None:
    """This file is no module that a worker could import: its classes travel with the order."""
    import sys

    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])


def order_of(folder: Path, dataset: Dataset, settings: Training = SETTINGS, detector: Yolo = TINY) -> TrainingJob:
    return TrainingJob(detector, dataset, folder.parent / "cache", SIZE, settings, folder)


def run(
    folder: Path,
    dataset: Dataset,
    settings: Training = SETTINGS,
    *,
    lines: list[str] | None = None,
    detector: Yolo = TINY,
) -> Path:
    carried_by_value()
    return train_with_ray(order_of(folder, dataset, settings, detector), (lines if lines is not None else []).append)


def epochs(folder: Path) -> list[dict[str, Any]]:
    return read_history(folder)["epochs"]


@pytest.mark.usefixtures("cluster")
def test_once_mistakes_are_mended_the_network_is_that_of_the_plain_loop_and_not_trained_twice(tmp_path: Path) -> None:
    lines: list[str] = []
    for settings in (SETTINGS, SETTINGS.model_copy(update={"workers": 2})):
        with pytest.raises(UserError, match=r"^annotations/7\.xml is missing$"):
            run(tmp_path / "baseline", Noise(mistake="annotations/7.xml is missing"), settings)
    handler = signal.getsignal(signal.SIGINT)
    folder = run(tmp_path / "baseline", Noise(), lines=lines)
    torch.manual_seed(SETTINGS.seed)
    plain = train(TINY.build(2), TINY, Pictures(), SIZE, SETTINGS).network
    trained = load_network(TINY, 2, folder)
    for (name, a), b in zip(plain.state_dict().items(), trained.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)
    assert [line.split(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert [entry["number"] for entry in epochs(folder)] == [1, 2, 3]
    assert sorted(path.name for path in folder.iterdir()) == ["structure.json", "training.json", "weights.safetensors"]
    assert signal.getsignal(signal.SIGINT) is handler
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    run(folder, Noise())
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before


@pytest.mark.usefixtures("cluster")
def test_every_epoch_is_told_though_the_training_ends_while_the_first_is_told(tmp_path: Path) -> None:
    lines: list[str] = []

    def tell(line: str) -> None:
        """As a log that takes its time."""
        while any(thread.name == "ray-train" and thread.is_alive() for thread in threading.enumerate()):
            time.sleep(0.1)
        lines.append(line.split(":", maxsplit=1)[0])

    carried_by_value()
    settings = SETTINGS.model_copy(update={"batch_size": 2, "workers": 2})
    train_with_ray(order_of(tmp_path / "baseline", Noise(), settings), tell)
    assert lines == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


@pytest.mark.usefixtures("cluster")
def test_mistakes_come_back_as_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="step"):
        run(tmp_path / "b", Noise(), detector=Diverging(width=0.0625, depthwise=False))
    for impossible in ({"threads": 64}, {"workers": 3, "threads": 1}):
        with pytest.raises(UserError, match=r"cores per machine: \[2\].*no room"):
            run(tmp_path / "c", Noise(), SETTINGS.model_copy(update=impossible))
    with pytest.raises(UserError, match="GPU"):
        run(tmp_path / "d", Noise(), SETTINGS.model_copy(update={"device": "cuda"}))


@pytest.mark.usefixtures("cluster")
def test_two_workers_agree_on_one_network_though_one_was_killed_after_an_epoch(tmp_path: Path) -> None:
    mark = tmp_path / "killed"
    lines: list[str] = []
    settings = SETTINGS.model_copy(update={"batch_size": 2, "workers": 2})
    folder = run(tmp_path / "baseline", Noise(kill_once=str(mark)), settings, lines=lines)
    assert mark.exists()
    history = epochs(folder)
    assert [entry["number"] for entry in history] == [1, 2, 3]
    assert {entry["workers"] for entry in history} == {2}
    assert sorted({line.split(":")[0] for line in lines}) == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert len(lines) <= 4  # one worker tells; an epoch that was lost with the other is told twice
    alone = train_here(order_of(tmp_path / "alone", Noise(), SETTINGS))
    for two, one in zip(history, epochs(alone), strict=True):
        assert two["lr"] == one["lr"]
        # norms see half a batch each, and YOLOX's loss is per responsible cell of a worker's own images
        assert sum(two["losses"].values()) == pytest.approx(sum(one["losses"].values()), rel=TOLERANCE)
    trained = load_network(TINY, 2, folder)
    assert all(torch.isfinite(parameter).all() for parameter in trained.parameters())
