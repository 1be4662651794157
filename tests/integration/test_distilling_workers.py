"""Two workers, without Ray, learn from a teacher what one does with the same batch; the adapters are shared too.

Run as a script it is one worker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from paretune.networks.network_files import save_network
from paretune.training.distillation import with_teacher
from paretune.training.loop import Options, train
from paretune.training.settings import Distill, Training
from tests_support_compression import CLASSES, SIZE, MixedDetector, model, pictures


class Seeing(MixedDetector):
    """Has a place to learn from; without norms, whose statistics would be of half a batch."""

    distill_features: ClassVar[tuple[str, ...]] = ("stem",)


DETECTOR = Seeing(norm="none")


def outcome(folder: Path, rank: int, world: int, features: float) -> dict[str, Any]:
    settings = Training(epochs=2, batch_size=4 // world, lr=1e-2, threads=1)
    network = model(DETECTOR, seed=1).network
    network.stem[0], network.same[0] = torch.nn.Conv2d(3, 16, 3, 4, 1), torch.nn.Conv2d(16, 16, 3, 1, 1)
    network.deep[0], network.plain[0] = torch.nn.Conv2d(16, 16, 3, 1, 1), torch.nn.Conv2d(32, 48, 1)
    distill = Distill(logits=3.0, features=features, teacher=str(folder / "teacher"))
    student, loss = with_teacher(network.train(), DETECTOR, len(CLASSES), SIZE, settings, distill, "cpu")
    options = Options(loss=loss, rank=rank, world=world)
    found = train(student, DETECTOR, pictures(8), SIZE, settings, options=options)
    return {
        "weights": {name: tensor.flatten().tolist() for name, tensor in found.network.state_dict().items()},
        "losses": [epoch["losses"] for epoch in found.epochs],
    }


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("features", [0.0, 1.0])
def test_two_workers_learn_as_one_does(features: float, tmp_path: Path) -> None:
    save_network(model(DETECTOR).network, tmp_path / "teacher")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, str(tmp_path), str(features)]
    workers = [subprocess.Popen([*words, str(rank)], env=environment, stderr=subprocess.PIPE) for rank in (0, 1)]
    alone = outcome(tmp_path, 0, 1, features)
    for worker in workers:
        _, errors = worker.communicate(timeout=150)
        assert worker.returncode == 0, errors.decode()[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert any(name.startswith("adapters.") for name in first["weights"]) == bool(features)
    assert [set(losses) for losses in first["losses"]] == [set(losses) for losses in alone["losses"]]
    if not features:  # a correlation is of the images a worker sees
        for name, values in alone["weights"].items():
            assert first["weights"][name] == pytest.approx(values, rel=1e-3, abs=1e-5), name


if __name__ == "__main__":
    place, weight, worker = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=worker, world_size=2)
    (place / f"{worker}.json").write_text(json.dumps(outcome(place, worker, 2, weight)))
    dist.destroy_process_group()
