"""The staircase probe: known staircases are read right, by an injected clock, and real layers are measured."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from paretune.compression.prune.step import Prune
from paretune.core.target import Target
from paretune.networks.network_files import layers
from paretune.profiling import channel_rounding as probe
from paretune.profiling.channel_rounding import MULTIPLES, ChannelRounding, judged, measure_channel_rounding, widths
from paretune.profiling.latency.quick_compare import clock_for, interleaved, quick_ratio
from paretune.profiling.single_layers import DEPTH, SquareConvolution, layer_on
from paretune.runtimes import RUNTIMES
from paretune.runtimes.eager import Eager
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.system import physical_gpu
from tests_support_compression import context, model
from tests_support_nvml import FIRST, FakeNvml

Cost = Callable[[int], float]


@dataclass
class Clock:
    """Goes on only when something runs; remembers what ran."""

    now: float = 0.0
    ran: list[object] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def run(self, name: object, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds
            self.ran.append(name)

        return run


@pytest.mark.parametrize(
    ("cost", "multiple"),
    [
        (lambda c: math.ceil(c / 16), 16),
        (lambda c: math.ceil(c / 16) ** 2, 16),
        (lambda c: 20 + math.ceil(c / 8) ** 2, 8),
        (lambda c: math.ceil(c / 32) ** 2, 32),
        (lambda c: c if c % 4 == 0 else 1.4 * c, 4),
        (lambda c: 3 + c + c * c / 50, 1),
    ],
    ids=["16", "16 squared", "8 over much else", "32", "4 or a slower kernel", "smooth"],
)
def test_the_finest_multiple_whose_steps_pay_is_read_from_a_known_staircase(cost: Cost, multiple: int) -> None:
    known = [SquareConvolution("1x1", width) for width in widths()]
    assert judged(known, [cost(layer.channels) for layer in known]).multiple == multiple


def test_one_slow_width_is_no_staircase() -> None:
    known = [SquareConvolution("3x3", width) for width in widths()]
    assert judged(known, [c * c * (1.45 if c == 128 else 1.0) for c in widths()]).multiple == 1


def test_waste_is_the_mean_over_all_widths_of_a_multiple() -> None:
    known = [SquareConvolution("1x1", width) for width in widths()]
    found = judged(known, [math.ceil(c / 16) for c in widths()])
    wanted = np.mean([math.ceil(c / 16) * 16 / c - 1 for low in (32, 96) for c in range(low + 8, low + 33, 8)])
    assert found.waste[8] == pytest.approx(wanted, abs=0.01)
    assert str(found).startswith("time wasted by multiples of 1: ")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Layers in ONNX Runtime cost what blocks of eight channels do."""
    made = Clock()

    @contextmanager
    def run_in(layer: SquareConvolution, *_: object) -> Iterator[Callable[[], None]]:
        yield made.run(layer, 1e-3 * math.ceil(layer.channels / 8))

    monkeypatch.setattr(probe, "layer_on", run_in)
    return made


def test_the_probe_measures_every_width_of_every_kind_and_keeps_the_times(clock: Clock, tmp_path: Path) -> None:
    first = measure_channel_rounding(OnnxRuntime(), Target(), tmp_path, clock=clock)
    assert set(clock.ran) == {SquareConvolution(kind, width) for kind in probe.KINDS for width in widths()}
    assert first.multiple == 8
    clock.ran.clear()
    assert measure_channel_rounding(OnnxRuntime(), Target(), tmp_path, clock=clock) == first
    assert not clock.ran
    measure_channel_rounding(OnnxRuntime(), Target(threads=2), tmp_path, clock=clock)
    assert clock.ran


def test_the_times_of_another_gpu_are_not_taken(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, measured in (("A100", True), ("A100", False), ("H100", True)):
        gpu = FakeNvml({"name": name, "uuid": FIRST, "mig": [[0, 0]]})
        monkeypatch.setattr(physical_gpu, "nvml", lambda gpu=gpu: gpu)
        clock.ran.clear()
        measure_channel_rounding(OnnxRuntime(), Target(device="cuda"), tmp_path, clock=clock)
        assert bool(clock.ran) == measured


@pytest.mark.parametrize("damage", ["", "[1.0]", "{}", "null"])
def test_times_that_cannot_be_read_are_measured_again(damage: str, clock: Clock, tmp_path: Path) -> None:
    measure_channel_rounding(OnnxRuntime(), Target(), tmp_path, clock=clock)
    (file,) = tmp_path.iterdir()
    file.write_text(damage)
    clock.ran.clear()
    assert measure_channel_rounding(OnnxRuntime(), Target(), tmp_path, clock=clock).multiple == 8
    assert clock.ran


def test_a_runtime_of_whole_networks_only_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntime, "runs_single_layers", False)
    assert measure_channel_rounding(OnnxRuntime(), Target()) is None


@pytest.mark.parametrize("name", [name for name in RUNTIMES.names if RUNTIMES.load(name)().runs_single_layers])
@pytest.mark.parametrize("kind", probe.KINDS)
def test_a_layer_computes_its_convolutions(name: str, kind: str, tmp_path: Path) -> None:
    layer = SquareConvolution(kind, 12)
    maps = torch.from_numpy(layer.images)
    for weight in layer.weights():
        maps = torch.conv2d(maps, torch.from_numpy(weight), padding=layer.kernel // 2, groups=layer.groups).relu()
    assert len(layer.weights()) == DEPTH
    with layer_on(layer, RUNTIMES.load(name)(), Target(), tmp_path) as run:
        made = run()
    got = next(iter(made.values())) if name == "openvino" else made[0] if name == "onnxruntime" else made
    np.testing.assert_allclose(np.asarray(got), maps.numpy(), atol=1e-4)


def test_a_layer_runs_as_its_runtime_is_told_to(tmp_path: Path) -> None:
    layer = SquareConvolution("3x3", 12)
    with layer_on(layer, Eager(), Target(), tmp_path) as run:
        plain = run()
    with layer_on(layer, Eager(precision="bf16", channels_last=True), Target(), tmp_path) as run:
        made = run()
    assert made.dtype is torch.bfloat16
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert not plain.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(made.float().numpy(), plain.numpy(), atol=0.1)
    on_a_gpu = OnnxRuntime(provider="cuda")  # not quietly on the CPU
    run_in = layer_on(layer, on_a_gpu, Target(), tmp_path)
    with pytest.raises(RuntimeError, match="provider cuda does not run on cpu"), run_in:
        pass
    assert measure_channel_rounding(OnnxRuntime(provider="tensorrt"), Target(device="cuda")) is None


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_a_real_probe_finds_a_multiple(tmp_path: Path) -> None:
    """Which one is the machine's; that it waits for the device is why it may take long."""
    found = measure_channel_rounding(OnnxRuntime(), Target(), tmp_path)
    assert found.multiple in MULTIPLES
    assert set(found.waste) == set(MULTIPLES)
    assert all(math.isfinite(waste) for waste in found.waste.values())
    (kept,) = tmp_path.iterdir()
    known = [SquareConvolution(kind, width) for kind in probe.KINDS for width in widths()]
    times = dict(zip(known, json.loads(kept.read_text()), strict=True))
    assert times[SquareConvolution("3x3", 128)] > 2 * times[SquareConvolution("3x3", 32)]  # 16 times the work


def test_pruning_rounds_to_what_the_probe_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from paretune.compression.prune import run as pruning_rounds

    found = ChannelRounding(dict.fromkeys(MULTIPLES, 0.0) | {1: 0.5, 4: 0.3, 8: 0.2}, {})
    monkeypatch.setattr(pruning_rounds, "measure_channel_rounding", lambda runtime, target, cache: found)
    step = Prune(ratio=0.3, round_to="auto")
    pruned = step.apply(model(), context(tmp_path, runtime=OnnxRuntime()))
    free = [layer["out_channels"] for name, layer in layers(pruned.network).items() if name in ("stem.0", "plain.0")]
    assert free == [16, 32]
    missed, told = pruned.notes  # 48 of 80 channels are left
    assert "removed 40% of the channels instead of 30%" in missed
    assert told.startswith("prune: round_to auto is 16: time wasted by multiples of 1: 50%, 4: 30%, 8: 20%")


def test_pruning_rounds_to_eight_where_nothing_can_be_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    step, dense = Prune(ratio=0.3, round_to="auto"), model()
    eight = Prune(ratio=0.3).apply(dense, context(tmp_path))
    monkeypatch.setattr(OnnxRuntime, "runs_single_layers", False)
    for runtime, reason in ((None, "there is no runtime"), (OnnxRuntime(), "single layers are not measured on onnxr")):
        pruned = step.apply(dense, context(tmp_path, runtime=runtime))
        assert layers(pruned.network) == layers(eight.network)
        assert reason in pruned.notes[0]


def test_functions_are_timed_in_turn_each_order_with_its_reverse() -> None:
    clock = Clock()
    times = interleaved([clock.run("a", 0.001), clock.run("b", 0.004)], rounds=4, block=0.008, clock=clock)
    assert times == pytest.approx(np.tile([0.001, 0.004], (4, 1)))
    turns = "".join(str(name) for name in clock.ran)[4:]  # after two calls of each that tell how long they take
    assert turns == ("a" * 8 + "b" * 2) + ("b" * 2 + "a" * 8) + ("a" * 8 + "b" * 2) + ("b" * 2 + "a" * 8)


def test_the_clock_is_cpu_time_only_where_one_thread_does_the_work() -> None:
    assert clock_for(Target()) is time.process_time
    assert clock_for(Target(threads=2)) is clock_for(Target(device="cuda")) is time.perf_counter


def test_a_quick_ratio_is_right_while_everything_slows_down() -> None:
    clock = Clock()

    def drifting(seconds: float) -> Callable[[], None]:
        def run() -> None:
            clock.now += seconds * (1 + clock.now / 20)

        return run

    assert quick_ratio(drifting(0.003), drifting(0.010), clock=clock) == pytest.approx(0.3, rel=0.05)
