"""A start that fails before anything is done leaves its name free; what was done is kept. Ray is not started."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import main
from paretune.config.plan import read_plan
from paretune.core.errors import UserError
from paretune.distributed import ray_session as session
from paretune.results.sweep_folder import find_sweep, new_sweep
from paretune.storage.trial_record import Record, read_records, write_record
from paretune.workflows import machine_check as machine
from paretune.workflows import sweep
from paretune.workflows import train as trainings

JOB = """\
dataset: {shapes: {train: 8, val: 4, size: 64x48}}
detector: {yolo: {variant: nano, depthwise: false, width: 0.125}}
input_size: 96x64
training: {epochs: 1, threads: 1}
space: space.yaml
tracking: {trainings: false}
"""
SPACE = "{input_size: 96x64, steps: [{prune: {ratio: {low: 0.1, high: 0.5}}}], runtime: onnxruntime}"
UNREACHABLE = f"http://127.0.0.1:9/{'a' * 8}.pth"
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]}],
    "categories": [{"id": 1, "name": "disc"}],
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "space.yaml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETUNE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(session, "session", lambda *_, **__: nullcontext())
    monkeypatch.setattr(session, "nodes", lambda: [{"CPU": 2.0}])
    monkeypatch.setattr(session, "cores", lambda: 2.0)
    return tmp_path


def made() -> list[str]:
    """What lies in the output folder under a name that a sweep or a training could have."""
    kept = {*Path("runs").glob("*"), *Path("runs/trainings").glob("*")} - {
        Path("runs/datasets"),
        Path("runs/trainings"),
    }
    return sorted(str(path) for path in kept if path.name != "mlflow.db")


def broken_data() -> list[str]:
    """A dataset that looks right at a glance: its image is missing."""
    import json

    Path("coco/annotations").mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        Path(f"coco/annotations/instances_{split}.json").write_text(json.dumps(COCO))
    return ["--set", "dataset={coco: {root: coco}}"]


def unreachable_weights() -> list[str]:
    fields = f"{{variant: nano, weights: '{UNREACHABLE}', sha256: {'a' * 64}}}"
    return ["--set", f"detector={{yolo: {fields}}}"]


def no_gpu() -> list[str]:
    return ["--set", "training.device=cuda"]


def too_many_workers() -> list[str]:
    return ["--set", "training.workers=2000"]


@pytest.mark.parametrize("verb", ["sweep", "train"])
@pytest.mark.parametrize("mistake", [no_gpu, too_many_workers, unreachable_weights, broken_data])
def test_the_same_command_is_refused_in_the_same_way_and_works_when_it_is_put_right(
    mistake: Callable[[], list[str]], verb: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(machine, "gpus_of_torch", lambda: 0)
    words, told = [verb, "job.yaml", "--name", "mine", *mistake()], list[str]()
    for _ in range(2):
        assert main(words) == 2
        told.append(capsys.readouterr().err)
        assert made() == []
    assert told[0] == told[1] != ""
    for module, trains in ((sweep, "train_baseline"), (trainings, "train_order")):
        monkeypatch.setattr(module, trains, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(words[:4]) == 130
    assert made() == ["runs/mine" if verb == "sweep" else "runs/trainings/mine"]


@pytest.fixture
def fails_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes every training fail after so many epochs."""
    from paretune.training import loop

    before, seen = loop.train, []

    def set_to(epochs: int) -> None:
        def train(*words: Any, on_epoch: Any = None, **more: Any) -> Any:
            def counted(epoch: Any) -> None:
                if len(seen) >= epochs:
                    raise FloatingPointError("loss nan")
                seen.append(epoch)
                on_epoch(epoch)

            return before(*words, on_epoch=counted, **more)

        monkeypatch.setattr(loop, "train", train)
        monkeypatch.setattr("paretune.training.extras.train", train, raising=False)

    return set_to


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["sweep", "train"])
@pytest.mark.parametrize("epochs", [0, 1])
def test_a_training_that_diverges_is_kept_from_its_first_epoch_on(
    epochs: int, verb: str, place: Path, fails_after: Callable[[int], None], capsys: Any
) -> None:
    fails_after(epochs)
    words = [verb, "job.yaml", "--name", "mine", "--set", "training.epochs=3"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "the training diverged: loss nan" in said
    if not epochs:
        assert "no epoch was finished" in said
        assert made() == []
        return
    (folder,) = map(Path, made())
    assert "the last good state is kept in" in said
    assert list(folder.rglob("unfinished/state.pt"))
    assert main(words) == 2  # what was done blocks the name
    assert "exists already" in capsys.readouterr().err
    assert list(folder.rglob("unfinished/state.pt"))


def test_what_cannot_be_given_on_a_cluster_leaves_no_folder_there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver of a submitted sweep runs the same code; what this machine has is not asked."""
    monkeypatch.setattr(machine, "gpus_of_torch", lambda: pytest.fail("asked"))
    for change in ("training.device=cuda", "resources.cpu=64", "training.workers=4"):
        words = ["sweep", "job.yaml", "--name", "mine", "--address", "auto", "--set", change]
        for _ in range(2):
            assert main(words) == 2
            assert made() == []


def test_submit_refuses_what_the_nodes_can_never_give(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from paretune.distributed import ray_jobs as jobs
    from paretune.distributed.node_tasks import ClusterNode

    monkeypatch.setattr(jobs, "connected", lambda _: nullcontext(None))
    monkeypatch.setattr(jobs, "living_nodes", lambda _: [ClusterNode("head", {"CPU": 4.0, "GPU": 1.0}, {})])
    words = ["submit", "job.yaml", "--address", "http://head:8265", "--set", f"output={place}/runs"]
    refused = {
        "resources.gpu=2": "a trial asks for CPU: 1, GPU: 2 on one node",
        "training={device: cuda, workers: 2}": "training.device is cuda, but the Ray cluster has 1 GPUs for 2 workers",
        "training={device: cpu, workers: 3, threads: 2}": "has no room for 3 workers with 2 CPU cores each",
    }
    for change, why in refused.items():
        assert main([*words, "--set", change]) == 2
        assert why in capsys.readouterr().err
    monkeypatch.setattr(jobs, "staged", lambda *_: pytest.fail("it may go on"))
    with pytest.raises(pytest.fail.Exception, match="it may go on"):
        main([*words, "--set", "training={device: cuda, workers: 1}"])


def test_a_sweep_that_has_a_record_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_now = new_sweep(read_plan(Path("job.yaml")), "mine")

    def trained(*_: Any, **__: Any) -> None:
        write_record(made_now.folder, Record.failed(0, {}, {}, "baseline", "out of memory"))
        raise UserError("trial 0 failed")

    monkeypatch.setattr(sweep, "train_baseline", trained)
    with pytest.raises(UserError, match="trial 0 failed"):
        sweep.run_sweep(made_now, new=True)
    assert len(read_records(find_sweep(Path("runs"), "mine").folder)) == 1


def test_a_sweep_that_goes_on_is_never_removed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_sweep(read_plan(Path("job.yaml")), "mine")
    monkeypatch.setattr(sweep, "take_baseline", lambda *_: (_ for _ in ()).throw(UserError("not now")))
    assert main(["resume", "mine"]) == 2
    assert made() == ["runs/mine"]


def test_a_fault_of_ours_leaves_no_folder_either_and_ctrl_c_does(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, left in ((KeyError("a fault"), []), (KeyboardInterrupt(), ["runs/mine"])):
        monkeypatch.setattr(sweep, "take_baseline", lambda *_, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(KeyError) if left == [] else nullcontext():
            sweep.run_sweep(new_sweep(read_plan(Path("job.yaml")), "mine"), new=True)
        assert made() == left


def test_an_adopted_network_alone_is_nothing_done(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = read_plan(Path("job.yaml"))
    sweeping = new_sweep(plan, "mine")
    sweeping.baseline.mkdir()
    (sweeping.baseline / "training.json").write_text("{}")
    assert sweeping.begun
    monkeypatch.setitem(sweeping.__dict__, "whole_job", plan.job.model_copy(update={"baseline": "elsewhere"}))
    assert not sweeping.begun
