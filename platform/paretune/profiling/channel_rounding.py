"""Efficient channel counts on a target, from the latency of single layers of many widths.

Kernels work on blocks of channels, so that latency rises in steps: a layer of 33 channels may take as long as one of
48, or longer than one of 64 where odd widths fall back to a slower kernel. Radu et al., Performance Aware
Convolutional Neural Network Channel Pruning for Embedded GPUs, IISWC 2019 (arXiv:2002.08697), saw both. The best
multiple depends on runtime, precision, the CPU's instructions and the version of the library, so that it is measured
for ``round_to: auto``, not taken from a table.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paretune.core.spec import fingerprint
from paretune.core.target import Target
from paretune.profiling.environment import environment
from paretune.profiling.latency.quick_compare import clock_for, interleaved
from paretune.profiling.single_layers import LayerKind, SquareConvolution, layer_on
from paretune.runtimes.base import Runtime
from paretune.storage.atomic_files import write_text
from paretune.system.device_lock import exclusive_device

MULTIPLES = (1, 4, 8, 16, 32)
"""Candidate multiples, fine to coarse; each divides the next."""
STRETCHES = ((32, 64), (96, 128))
"""Ranges of widths that are measured."""
ODD = (3, 9, 15, 21, 27, 30)
"""Offsets in a range that are multiples of no candidate but 1, in place of all of these."""
IN_A_STRETCH = {1: 24, 4: 4, 8: 2, 16: 1, 32: 1}
"""Candidate → how many of 32 consecutive widths have it as their largest candidate divisor."""
ABOVE, FITS = 1e-3, 60
"""Weight of a width above the curve (below it is 1), and number of fits until the weights agree."""
PAYS = 0.03
"""Least gain for which a coarser multiple is taken, as a share of the time."""
KINDS: tuple[LayerKind, ...] = ("1x1", "3x3", "depthwise")


@dataclass(frozen=True)
class ChannelRounding:
    """The time wasted by rounding to each multiple."""

    waste: Mapping[int, float]
    """Multiple → mean share by which its widths take longer than a smooth curve below all widths."""
    by_kind: Mapping[LayerKind, Mapping[int, float]]
    """Kind of layer → multiple → that share for this kind alone."""

    @property
    def multiple(self) -> int:
        """Return the smallest multiple for which no coarser one is better by ``PAYS``."""
        finest = (m for m in MULTIPLES if self.waste[m] <= min(self.waste[n] for n in MULTIPLES if n >= m) + PAYS)
        return next(finest)

    def __str__(self) -> str:
        """Return the shares of time wasted as a line."""
        return "time wasted by multiples of " + ", ".join(f"{m}: {max(w, 0.0):.0%}" for m, w in self.waste.items())


def measure_channel_rounding(
    runtime: Runtime, target: Target, cache: Path | None = None, *, clock: Callable[[], float] | None = None
) -> ChannelRounding | None:
    """Measure single layers on a runtime, alone on the target's device, for some seconds.

    Args:
        runtime: runtime of the network.
        target: device and threads.
        cache: folder in which the times are kept for this machine, these libraries and this runtime.
        clock: clock in seconds, by default ``clock_for(target)``.

    Returns:
        The waste of each multiple; None for a runtime that takes whole networks only.
    """
    if not runtime.runs_single_layers:
        return None
    clock = clock or clock_for(target)
    surroundings = environment(target)
    known = fingerprint(surroundings["machine"], surroundings["libraries"], runtime.named(), widths())
    file = None if cache is None else cache / f"staircase-{known}.json"
    layers = [SquareConvolution(kind, width) for kind in KINDS for width in widths()]
    times = _read(file, len(layers))
    if times is None:
        with exclusive_device(target.device):
            times = _read(file, len(layers))  # another process may have measured while this one waited
            if times is None:
                times = [
                    seconds
                    for kind in KINDS  # one after the other, to save memory
                    for seconds in _measured([one for one in layers if one.kind == kind], runtime, target, clock)
                ]
                if file is not None:
                    write_text(file, json.dumps(times))
    return judged(layers, times)


def _measured(
    layers: Sequence[SquareConvolution], runtime: Runtime, target: Target, clock: Callable[[], float]
) -> Sequence[float]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runs = [stack.enter_context(layer_on(layer, runtime, target, Path(folder))) for layer in layers]
        return [float(seconds) for seconds in interleaved(runs, clock=clock).min(axis=0)]


def widths() -> list[int]:
    """Return the channel counts that are measured."""
    return sorted(low + offset for low, _ in STRETCHES for offset in (*range(0, 33, 4), *ODD))


def judged(layers: Sequence[SquareConvolution], seconds: Sequence[float]) -> ChannelRounding:
    """Return the waste of each multiple from the times of layers; each kind of layer has all ``widths``."""
    times: dict[LayerKind, dict[int, float]] = {}
    for layer, taken in zip(layers, seconds, strict=True):
        times.setdefault(layer.kind, {})[layer.channels] = taken
    by_kind = {kind: _waste(measured) for kind, measured in times.items()}
    return ChannelRounding({m: float(np.mean([waste[m] for waste in by_kind.values()])) for m in MULTIPLES}, by_kind)


def _waste(times: Mapping[int, float]) -> dict[int, float]:
    """Return the waste of each multiple for one kind of layer, from width → seconds.

    The curve below the times is a parabola of overhead, memory (linear in the width) and arithmetic (quadratic), fitted
    by asymmetric least squares (Newey and Powell, Econometrica 55, 1987). No width is assumed to be a good one.
    """
    channels, seconds = np.array(list(times), float), np.array(list(times.values()))
    weights = np.ones(len(times))
    for _ in range(FITS):
        curve = np.polyval(np.polyfit(channels, seconds, 2, w=np.sqrt(weights) / seconds), channels)
        weights = np.where(seconds < curve, 1.0, ABOVE)
    excess = dict(zip(times, (seconds / curve - 1).tolist(), strict=True))
    typical = {m: float(np.mean([e for width, e in excess.items() if _class(width) == m])) for m in MULTIPLES}
    waste: dict[int, float] = {}
    for multiple in MULTIPLES:
        kept = {m: count for m, count in IN_A_STRETCH.items() if m >= multiple}
        waste[multiple] = sum(count * typical[m] for m, count in kept.items()) / sum(kept.values())
    return waste


def _class(width: int) -> int:
    return max(multiple for multiple in MULTIPLES if width % multiple == 0)


def _read(file: Path | None, count: int) -> list[float] | None:
    """Return the times in a file; None if there is no such file, or it holds other times."""
    if file is None:
        return None
    with suppress(OSError, ValueError):
        content = json.loads(file.read_text())
        if isinstance(content, list) and len(content) == count and all(isinstance(one, float) for one in content):
            return content
    return None
