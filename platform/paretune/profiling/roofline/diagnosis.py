"""Diagnosis of an artefact's time: the parts of an inference, and how far each is from the limits of the device.

The roofline model (see ``hardware_peaks``) gives the least time of a layer. Amdahl's law (AFIPS 1967) gives the largest
possible gain if a part took no time, or ran at its roof.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from paretune.profiling.latency.samples import Stage
from paretune.profiling.roofline.hardware_peaks import HardwarePeaks
from paretune.profiling.roofline.layer_work import LayerWork

LayerBound = Literal["compute", "memory", "launch"]
Bound = Literal[LayerBound, "host", "transfer"]
Verdict = Literal[
    "compute-bound", "memory-bound", "launch-bound", "transfer-bound", "postprocess-bound", "host-bound", "unknown"
]
FAR = 0.2
"""A layer that reaches less than this share of its roof is bound by its launch."""
MOST = 0.5
"""Share of the whole from which on a part is the verdict."""


@dataclass(frozen=True)
class TimedLayer:
    """A layer with weights, with its time and its least time."""

    work: LayerWork
    ms: float
    roof_ms: float
    limit: Literal["compute", "memory"]
    """The lower one of its two roofs."""

    @property
    def attained(self) -> float:
        """Return the share of the roof that the layer reaches; above 1 if the roof was measured too low."""
        return self.roof_ms / self.ms if self.ms else 1.0

    @property
    def bound(self) -> LayerBound:
        """Return what bounds the layer."""
        return "launch" if self.attained < FAR else self.limit

    @property
    def intensity(self) -> float:
        """Return the operations per byte."""
        return self.work.flops / self.work.nbytes


@dataclass(frozen=True)
class Speedup:
    """The largest possible gains from one part, as speed-ups from image to boxes."""

    part: str
    ms: float
    share: float
    free: float
    """Speed-up if the part took no time."""
    at_roof: float | None
    """Speed-up if the part ran at its roof; None if it has none."""


@dataclass(frozen=True)
class Diagnosis:
    """The parts of the time of one inference."""

    preprocess_ms: float
    network_ms: float
    postprocess_ms: float
    layers: tuple[TimedLayer, ...]
    """Layers with weights, the slowest first; some may be missing if ``unknown`` is set."""
    roofs: HardwarePeaks
    host_ms: float = 0.0
    """Part of the network's time in which the host computes between a detector's networks."""
    transfer_ms: float = 0.0
    """Part of the network's time for copies between host and device; a CPU has none."""
    unknown: str | None = None
    """Why it is not known what bounds the network; None if it is known."""

    @property
    def total_ms(self) -> float:
        """Return the time from image to boxes."""
        return self.preprocess_ms + self.network_ms + self.postprocess_ms

    @property
    def rest_ms(self) -> float:
        """Return the network's time outside of layers with weights: norms, activations, calls."""
        return max(0.0, self.network_ms - self.apart_ms - sum(layer.ms for layer in self.layers))

    @property
    def apart_ms(self) -> float:
        """Return the part of the network's time for host and transfers."""
        return self.host_ms + self.transfer_ms

    @cached_property
    def by_bound(self) -> dict[Bound, float]:
        """Return the network's time in ms by what bounds it; time outside of layers counts as launch.

        Host and transfers are left out if they take no time. The result is empty if ``unknown`` is set.
        """
        if self.unknown:
            return {}
        times: dict[Bound, float] = {"compute": 0.0, "memory": 0.0, "launch": self.rest_ms}
        for layer in self.layers:
            times[layer.bound] += layer.ms
        apart: dict[Bound, float] = {"host": self.host_ms, "transfer": self.transfer_ms}
        return times | {bound: ms for bound, ms in apart.items() if ms}

    @property
    def verdict(self) -> Verdict:
        """Return what bounds the whole inference."""
        if self.postprocess_ms >= MOST * self.total_ms:
            return "postprocess-bound"
        if self.preprocess_ms + self.host_ms >= MOST * self.total_ms:
            return "host-bound"
        if self.unknown:
            return "unknown"
        most: Bound = max(self.by_bound, key=lambda bound: self.by_bound[bound])
        verdicts: dict[Bound, Verdict] = {
            "compute": "compute-bound",
            "memory": "memory-bound",
            "launch": "launch-bound",
            "host": "host-bound",
            "transfer": "transfer-bound",
        }
        return verdicts[most]

    @property
    def evidence(self) -> str:
        """Return the shares on which the verdict rests, as a line."""
        network, total = self.network_ms, self.total_ms
        stages = f"network {network / total:.0%} of the time, postprocess {self.postprocess_ms / total:.0%}"
        if self.unknown:
            return f"{stages}; what bounds the network is not known: {self.unknown}"
        bounds = ", ".join(f"{bound} {ms / network:.0%}" for bound, ms in self.by_bound.items())
        return f"{stages}; of the network: {bounds} (of it outside layers with weights {self.rest_ms / network:.0%})"

    def ceilings(self, top: int = 5) -> tuple[Speedup, ...]:
        """Return the largest possible gains from each stage, from the rest, and from the slowest layers."""
        roofs = [min(layer.ms, layer.roof_ms) for layer in self.layers]
        parts: list[tuple[str, float, float | None]] = [
            ("preprocess", self.preprocess_ms, None),
            ("postprocess", self.postprocess_ms, None),
            ("network", self.network_ms, None if self.unknown else self.apart_ms + sum(roofs)),
        ]
        if not self.unknown:
            parts.append(("network outside layers with weights", self.rest_ms, None))
        apart = (("host, between the networks", self.host_ms), ("transfer to and from the device", self.transfer_ms))
        parts += [(part, ms, None) for part, ms in apart if ms]
        parts += [(layer.work.module, layer.ms, roof) for layer, roof in zip(self.layers[:top], roofs, strict=False)]
        return tuple(self._ceiling(*part) for part in parts)

    def _ceiling(self, part: str, ms: float, roof: float | None) -> Speedup:
        total = self.total_ms
        at_roof = None if roof is None else _times(total, total - ms + roof)
        return Speedup(part, ms, ms / total, _times(total, total - ms), at_roof)

    def tree(self) -> dict[str, Any]:
        """Return the diagnosis as plain data."""
        layers = [
            {
                "module": layer.work.module,
                "ms": layer.ms,
                "roof_ms": layer.roof_ms,
                "attained": layer.attained,
                "bound": layer.bound,
                "flops": layer.work.flops,
                "bytes": layer.work.nbytes,
                "precision": layer.work.precision,
            }
            for layer in self.layers
        ]
        return {
            "verdict": self.verdict,
            "evidence": self.evidence,
            "unknown": self.unknown,
            "by_bound_ms": self.by_bound or None,
            "ceilings": [vars(ceiling) for ceiling in self.ceilings()],
            "layers": layers,
            "roofs": self.roofs.tree(),
        }


def diagnose(
    stages: Mapping[Stage, float],
    times: Mapping[str, float],
    work: Mapping[str, LayerWork],
    roofs: HardwarePeaks,
    *,
    host_ms: float = 0.0,
    transfer_ms: float = 0.0,
    unknown: str | None = None,
) -> Diagnosis:
    """Return the diagnosis of an inference.

    Args:
        stages: ``preprocess``, ``network``, ``postprocess`` → median in ms, measured without counting.
        times: module → ms of its operators, scaled so that their sum is the network's time.
        work: module → its work; modules of ``times`` that are missing here are the rest.
        roofs: the device's roofs.
        host_ms: part of the network's time in which the host computes.
        transfer_ms: part of the network's time for copies to and from the device.
        unknown: why too little of the network's time is in ``times`` to know what bounds it.
    """
    layers = []
    for module, todo in work.items():
        if module not in times:
            continue  # the runtime has merged it with another
        precision = todo.precision if todo.precision in roofs.compute else "fp32"
        compute, roof = todo.flops / roofs.compute[precision], roofs.seconds(todo.flops, todo.nbytes, precision)
        layers.append(TimedLayer(todo, times[module], 1000 * roof, "compute" if compute >= roof else "memory"))
    layers.sort(key=lambda layer: -layer.ms)
    shown = (stages["preprocess"], stages["network"], stages["postprocess"])
    return Diagnosis(*shown, tuple(layers), roofs, host_ms, transfer_ms, unknown)


def _times(before: float, after: float) -> float:
    return before / after if after > 0 else float("inf")
