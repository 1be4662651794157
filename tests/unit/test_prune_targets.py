"""What a ratio is a share of: channels, FLOPs, latency."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paretune.compression.prune import run as pruning_rounds
from paretune.compression.prune import targets as pruning_targets
from paretune.compression.prune.dependency_groups import ChannelGroup, trace_dependency_groups
from paretune.compression.prune.ranking import rank_channels, stages
from paretune.compression.prune.step import Prune
from paretune.compression.prune.targets import MOST, find_ratio, flops_by_layer, flops_left, stopwatch
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.detectors.base import Detector
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.yolox.detector import Yolo
from paretune.networks.network_files import copy_network, count
from paretune.runtimes.eager import Eager
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.storage.artefact import Artefact
from paretune.storage.atomic_files import sha256
from paretune.system import machine_cache as caching
from tests_support_compression import SIZE, MixedDetector, UpsamplingDetector, context, model, same_state, state

DENSE, SEPARABLE = Yolo(width=0.125, depthwise=False), Yolo(width=0.125, depthwise=True)
SMALL = FasterRcnn(proposals=20, samples=32, head_width=64, min_proposal_score=0.0)
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("detector", "size"),
    [
        pytest.param(MixedDetector(), SIZE, id="mixed"),
        pytest.param(MixedDetector(norm="frozen"), SIZE, id="frozen"),
        pytest.param(UpsamplingDetector(), SIZE, id="upsampling"),
        pytest.param(DENSE, SIZE, id="dense", marks=SLOW),
        pytest.param(SEPARABLE, SIZE, id="separable", marks=SLOW),
        pytest.param(Ssd(width=0.5), InputSize(96, 64), id="ssdlite", marks=SLOW),
        pytest.param(SMALL, InputSize(96, 64), id="faster_rcnn", marks=SLOW),
    ],
)
def test_operations_are_known_without_pruning(detector: Detector, size: InputSize) -> None:
    """Of every layer as torch counts them, and what is left of them as counted after the surgery."""
    dense = model(detector, size)
    flops = flops_by_layer(dense.network, size)
    assert sum(flops.values()) == dense.flops
    network = copy_network(dense.network)
    with trace_dependency_groups(network, detector, size) as coupling:
        rising = rank_channels(coupling.blocks, lambda block: torch.arange(block.channels) + 0.0, None, "local", 1)
        doomed = rising.lowest(0.4)
        left = flops_left(flops, coupling.blocks, doomed)
        coupling.remove(doomed)
    assert left == pytest.approx(count(network, size)[1], rel=1e-9)
    assert left < 0.7 * dense.flops


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["local", "stage", "global"])
@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_the_share_of_the_flops_that_goes_is_the_one_asked_for(ratio: float, scope: str, tmp_path: Path) -> None:
    detector = Yolo(width=0.25, depthwise=False)
    dense = model(detector)
    step = Prune.model_validate({"ratio": ratio, "budget": "flops", "scope": scope, "round_to": 4})
    pruned = step.apply(dense, context(tmp_path, detector))
    assert 1 - pruned.flops / dense.flops == pytest.approx(ratio, abs=0.03)
    assert pruned.notes == ()


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_no_ratio_of_channels_comes_nearer_and_what_is_missed_is_noted(ratio: float, tmp_path: Path) -> None:
    dense, around = model(), context(tmp_path)
    pruned = Prune(ratio=ratio, budget="flops").apply(dense, around)
    tried = [Prune(ratio=float(r)).apply(dense, around).flops for r in np.linspace(0.02, 0.94, 24)]
    error, errors = (np.abs(np.array(found) / dense.flops - (1 - ratio)) for found in (pruned.flops, tried))
    assert error <= errors.min() + 1e-9
    assert (error > 0.03) == any("of the flops instead of" in note for note in pruned.notes)


@given(st.floats(0.05, 0.95), st.integers(1, 40), st.floats(0.3, 3), st.floats(0.01, 0.97))
def test_the_search_finds_the_step_that_is_nearest(wanted: float, steps: int, power: float, guess: float) -> None:
    def left(ratio: float) -> float:
        return float((1 - np.floor(ratio * steps) / steps) ** power)

    asked: list[float] = []

    def told(ratio: float) -> float:
        asked.append(ratio)
        return left(ratio)

    found = left(find_ratio(told, wanted, guess=guess, steps=40, close=0.0))
    possible = [left(ratio) for ratio in np.arange(steps + 1) / steps if ratio < MOST - 0.01] + [1.0]
    assert abs(found - wanted) <= min(abs(one - wanted) for one in possible) + 1e-6
    assert len(asked) <= 40
    assert all(0 < ratio < MOST for ratio in asked)


def test_the_search_ends_when_it_is_near_enough() -> None:
    asked: list[float] = []
    find_ratio(lambda ratio: asked.append(ratio) or 1 - ratio, 0.5, guess=0.49, steps=9, close=0.02)
    assert asked == [0.49]


def test_latency_is_steered_by_what_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A device on which half the latency is there whatever is computed: 30 % of it are 60 % of the operations."""
    measured: list[Model] = []

    @contextmanager
    def device(dense: Model, _: Any) -> Iterator[Any]:
        def share(candidate: Model) -> float:
            measured.append(candidate)
            return 0.5 + 0.5 * count(candidate.network, SIZE)[1] / dense.flops

        yield share

    monkeypatch.setattr(pruning_rounds, "stopwatch", device)
    dense = model()
    step = Prune(ratio=0.3, budget="latency", round_to=1)
    pruned = step.apply(dense, context(tmp_path, runtime=OnnxRuntime()))
    assert pruned.flops / dense.flops == pytest.approx(0.4, abs=0.05)
    assert pruned.notes == ()
    assert 1 <= len(measured) <= 6
    widths = [tuple(p.shape for p in candidate.network.parameters()) for candidate in measured]
    assert len(set(widths)) == len(widths)  # the same widths are not measured twice
    missed = Prune(ratio=0.8, budget="latency").apply(dense, context(tmp_path, runtime=OnnxRuntime()))
    assert any("of the latency instead of 80%" in note for note in missed.notes)


def test_without_a_runtime_latency_is_flops(tmp_path: Path) -> None:
    dense = model()
    by_flops, by_latency = (
        Prune(ratio=0.5, budget=of, round_to=1).apply(dense, context(tmp_path)) for of in ("flops", "latency")
    )
    assert same_state(state(by_flops.network), state(by_latency.network))
    assert by_flops.notes == ()
    assert by_latency.notes == ("prune: there is no runtime to measure latency on; ratio is taken of the flops",)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
@pytest.mark.parametrize("runtime", [Eager(), OnnxRuntime()], ids=lambda runtime: runtime.name)
def test_latency_is_really_measured(runtime: Eager | OnnxRuntime, tmp_path: Path) -> None:
    """Half the channels of a network in which they are all the work; the time of it waits for the device."""
    size, threads = InputSize(160, 128), torch.get_num_threads()
    dense = model(DENSE, size)
    before = state(dense.network)
    around = context(tmp_path, DENSE, runtime=runtime)
    smaller = Prune(ratio=0.9).apply(dense, around)
    with stopwatch(dense, around) as share:
        small, same = share(smaller), share(dense)
    assert small < 0.85 * same
    assert 0.6 < same < 1.6
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads
    assert same_state(before, state(dense.network))


def test_what_a_runtime_makes_of_candidates_goes_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dense network's is kept, for the next trial; a runtime that keeps a file of each network stands for all."""
    usual, trial = tmp_path / "usual", tmp_path / "trial"
    usual.mkdir()
    trial.mkdir()
    monkeypatch.setattr(caching.tempfile, "gettempdir", lambda: str(usual))
    monkeypatch.setattr(pruning_targets, "quick_ratio", lambda *_, **__: 1.0)

    class Keeping(Eager):
        def load(self, artefact: Artefact, target: Target) -> Any:
            (caching.private_folder("programs") / sha256(artefact.file("weights.safetensors"))).write_text("")
            return lambda batch: batch

    with stopwatch(model(), context(trial, runtime=Keeping())) as share:
        for factor in (2, 3):
            candidate = model()
            next(candidate.network.parameters()).data *= factor
            share(candidate)
    (kept,) = usual.glob("paretune-programs-*")
    assert len(list(kept.iterdir())) == 1
    assert list(trial.iterdir()) == []


def lock_of_cpu(folder: Path) -> str:
    """Who holds the CPU, by what flock grants to somebody else."""
    for mode, found in ((fcntl.LOCK_EX, "nobody"), (fcntl.LOCK_SH, "shared")):
        with (folder / "cpu.lock").open("a") as file, suppress(BlockingIOError):
            fcntl.flock(file, mode | fcntl.LOCK_NB)
            return found
    return "alone"


def test_all_that_computes_shares_the_cpu_but_what_is_timed(
    own_locks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement elsewhere on the machine is not disturbed by candidates that are made beside it."""
    seen: dict[str, set[str]] = {}

    def noted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **more: Any) -> Any:
            seen.setdefault(name, set()).add(lock_of_cpu(own_locks))
            return work(*args, **more)

        return run

    class Noting(Eager):
        def load(self, artefact: Artefact, target: Target) -> Any:
            return noted("load", lambda: None)()

    for name in ("make_criterion", "trace_dependency_groups", "rank_channels", "flops_by_layer", "copy_network"):
        monkeypatch.setattr(pruning_rounds, name, noted(name, getattr(pruning_rounds, name)))
    monkeypatch.setattr(pruning_targets, "write_artefact", noted("write_artefact", pruning_targets.write_artefact))
    monkeypatch.setattr(pruning_targets, "quick_ratio", noted("quick_ratio", lambda *_, **__: 0.5))
    Prune(ratio=0.5, budget="latency").apply(model(), context(tmp_path, runtime=Noting()))
    assert seen.pop("quick_ratio") == {"alone"}
    assert len(seen) == 7
    assert set.union(*seen.values()) == {"shared"}, seen


def test_stages_hold_at_most_half_of_the_layers() -> None:
    names = [
        *(f"body.{n}.conv" for n in (1, 1, 2, 3)),
        *(f"body.{n}.other" for n in (1, 2, 3)),
        "neck.a",
        "neck.b",
        "head",
    ]
    found = stages(sorted(set(names)))
    assert found["body.1.conv"] == found["body.1.other"] == "body.1"
    assert found["neck.a"] == found["neck.b"] == "neck"
    assert found["head"] == "head"
    assert stages(["only.one.layer"]) == {"only.one.layer": "only.one.layer"}


@pytest.mark.parametrize(
    ("scope", "left"),
    [("local", [4, 4, 4, 4]), ("stage", [2, 6, 4, 4]), ("global", [2, 1, 6, 8])],
)
def test_a_scope_says_with_whom_channels_are_compared(scope: Any, left: list[int]) -> None:
    """Four layers of eight channels in two stages; half of the channels go, the lowest scores first."""
    scores = {
        "body.a": torch.tensor([0.0, 1, 2, 3, 4, 5, 40, 41]),
        "body.b": torch.tensor([10.0, 11, 20, 21, 22, 23, 24, 25]),
        "head.a": torch.tensor([30.0, 31, 50, 51, 52, 53, 54, 55]),
        "head.b": torch.tensor([32.0, 33, 34, 35, 60, 61, 62, 63]),
    }
    blocks = [ChannelGroup(name, 8, 1, (), None) for name in scores]
    doomed = rank_channels(blocks, lambda block: scores[block.name], None, scope, 1).lowest(0.5)
    assert [8 - len(channels) for channels in doomed.values()] == left
    for name, channels in doomed.items():
        assert channels == list(range(len(channels))), name


def test_grouped_channels_go_one_of_each_group_and_the_width_stays_a_multiple() -> None:
    """Six channels in two groups: what is compared is the mean of the groups."""
    scores = torch.tensor([5.0, 1, 9, 5, 3, 9])
    block = ChannelGroup("grouped", 6, 2, (), None)
    assert rank_channels([block], lambda _: scores, None, "local", 1).lowest(0.3)["grouped"] == [1, 4]
    assert rank_channels([block], lambda _: scores, None, "local", 4).lowest(0.3)["grouped"] == [1, 4]
    assert rank_channels([block], lambda _: scores, None, "local", 3).lowest(0.1)["grouped"] == []


def test_a_ratio_is_a_share_of_the_widths_before() -> None:
    block = ChannelGroup("narrowed", 6, 1, (), None)
    for ratio, gone in ((0.2, 0), (0.5, 2), (0.75, 4)):
        doomed = rank_channels([block], lambda _: torch.arange(6.0), {"narrowed": 8}, "local", 1).lowest(ratio)
        assert doomed["narrowed"] == list(range(gone))


def test_what_has_no_score_stays() -> None:
    blocks = [ChannelGroup("known", 4, 1, (), None), ChannelGroup("unknown", 4, 1, (), None)]
    found = rank_channels(blocks, lambda block: torch.arange(4.0) if block.name == "known" else None, None, "global", 1)
    assert found.lowest(0.5) == {"known": [0, 1]}
