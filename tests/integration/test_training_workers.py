"""Several workers, without Ray: together they do what one does with the same batch, and judge the same network.

Run as a script it is one worker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from paretune.core.errors import UserError

ROOT = Path(__file__).parent.parent.parent
PLACES = 12


def outcome(rank: int, world: int, accumulate: int) -> dict[str, Any]:
    """Train a network without norms, whose loss is a mean over images, and a YOLO that is validated each epoch."""
    from paretune.core.types import Annotations, InputSize
    from paretune.detectors.yolox.detector import Yolo
    from paretune.training.loop import Options, train
    from paretune.training.settings import Training

    class Squares:
        classes = ("square",)
        ids = tuple(map(str, range(PLACES)))

        def __len__(self) -> int:
            return PLACES

        def size(self, index: int) -> tuple[int, int]:
            return 64, 64

        def image(self, index: int) -> Any:
            picture = np.full((64, 64, 3), 120, np.uint8)
            picture[index : index + 24, 2 * index : 2 * index + 24] = 240
            return picture

        def annotations(self, index: int) -> Annotations:
            box = np.array([[2 * index, index, 2 * index + 24, index + 24]], np.float32)
            return Annotations(box, np.zeros(1, np.int64), np.zeros(1, bool))

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 1, 3, 2))

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.layers(images / 255),)

    def loss(forward: Any, images: torch.Tensor, _: Any) -> dict[str, torch.Tensor]:
        return {"square": (forward(images)[0] - 1).square().mean()}

    size, yolo = InputSize(64, 64), Yolo(width=0.0625, depthwise=False)
    place = {"rank": rank, "world": world}
    torch.manual_seed(0)
    settings = Training(epochs=3, batch_size=4 // world, accumulate=accumulate, lr=1e-2, threads=1, multi_scale=0.5)
    plain = train(Plain(), yolo, Squares(), size, settings, options=Options(loss=loss, **place))
    torch.manual_seed(0)
    settings = Training(
        epochs=6, batch_size=4 // world, lr=1e-2, threads=1, ema=0.5, flip=0, validate_every=1, patience=2
    )
    judged = train(yolo.build(1), yolo, Squares(), size, settings, options=Options(val=Squares(), **place))
    return {
        "weights": {name: tensor.flatten().tolist() for name, tensor in plain.network.state_dict().items()},
        "losses": [epoch["losses"]["square"] for epoch in plain.epochs],
        "maps": [epoch["map"] for epoch in judged.epochs],
        "best": judged.best,
    }


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_workers_change_the_weights_as_one_does(accumulate: int, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, str(tmp_path), str(accumulate)]
    workers = [subprocess.Popen([*words, str(rank)], env=environment, stderr=subprocess.PIPE) for rank in (0, 1)]
    alone = outcome(0, 1, accumulate)
    for worker in workers:
        _, errors = worker.communicate(timeout=200)
        assert worker.returncode == 0, errors.decode()[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["weights"] == second["weights"]
    assert first["losses"] == second["losses"]
    for name, values in alone["weights"].items():
        assert first["weights"][name] == pytest.approx(values, rel=1e-4, abs=1e-6), name
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert first["maps"] == second["maps"]
    assert first["best"] == second["best"]
    assert len(first["maps"]) >= 3


def room(monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], **settings: Any) -> tuple[Any, list[str]]:
    """What each of two workers gets in a cluster of such nodes, and the lines that are told."""
    from paretune.distributed.train_workers import room_for
    from paretune.training.settings import Training

    total = sum(node.get("GPU", 0) for node in nodes)
    cluster = SimpleNamespace(
        nodes=lambda: [{"Alive": True, "NodeID": "a", "Resources": node} for node in nodes],
        cluster_resources=lambda: {"GPU": total} if total else {},
    )
    monkeypatch.setitem(sys.modules, "ray", cluster)
    lines: list[str] = []
    return room_for(Training(workers=2, **settings), lines.append), lines


CARD = {"CPU": 4, "GPU": 1}


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([{"CPU": 16}], {}, (8, False)),
        ([{"CPU": 16, "GPU": 2}], {}, (8, True)),
        ([{"CPU": 16, "GPU": 8}], {}, (8, True)),
        ([{"CPU": 16}, CARD, CARD], {}, (4, True)),
        ([{"CPU": 16}, CARD, CARD], {"threads": 3}, (3, True)),
        ([{"CPU": 16}, CARD, CARD], {"device": "cpu"}, (8, False)),
        ([{"CPU": 16, "GPU": 1}, CARD], {}, (4, True)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 1, "GPU": 1}], {}, (8, True)),
    ],
)
def test_workers_get_the_cores_that_lie_beside_their_gpus(
    nodes: list[dict[str, float]],
    settings: dict[str, Any],
    expected: tuple[int, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, lines = room(monkeypatch, nodes, **settings)
    assert found == expected
    assert lines == []


@pytest.mark.parametrize(
    ("nodes", "settings"),
    [
        ([{"CPU": 16}, CARD, CARD], {"threads": 8}),
        ([{"CPU": 16}, {"GPU": 2}], {}),
        ([{"CPU": 1, "GPU": 2}], {"device": "cuda"}),
    ],
)
def test_cores_and_gpus_that_lie_apart_are_no_room(
    nodes: list[dict[str, float]], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no room for 2 workers with \d CPU cores and a GPU each"):
        room(monkeypatch, nodes, **settings)


def test_gpus_that_stay_idle_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found, lines = room(monkeypatch, [{"CPU": 16}, CARD])
    assert found == (8, False)
    (line,) = lines
    assert "1 GPUs for 2 workers" in line
    assert room(monkeypatch, [{"CPU": 16}, CARD], device="cpu")[1] == []


if __name__ == "__main__":
    folder, accumulate, rank = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    (folder / f"{rank}.json").write_text(json.dumps(outcome(rank, 2, accumulate)))
    dist.destroy_process_group()
