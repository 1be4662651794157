"""A duet: an artefact measured together with a reference artefact, in short blocks of the same seconds.

Disturbances slow both of them, so that the ratio of their latencies holds where each latency by itself does not (Bulej
et al., Duet Benchmarking: Improving Measurement Accuracy in the Cloud, ICPE 2020). The artefact's latency is this ratio
times the latency of the reference, which every duet of a sweep measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median, median_low
from typing import Any

import numpy as np

from paretune.core.devices import device_kind
from paretune.core.target import Target
from paretune.core.types import Image
from paretune.profiling.environment import environment
from paretune.profiling.gpu.contention import GpuMonitor, monitor_device
from paretune.profiling.latency.compare import Comparison, LatencyRatio, ratio_figures, summarised
from paretune.profiling.latency.result import Latency
from paretune.profiling.latency.rounds import MeasuringRound, MeasuringSettings, run_round
from paretune.profiling.latency.samples import COLD, MeasurementProtocol
from paretune.profiling.latency.shared_images import saved_images
from paretune.profiling.latency.worker_client import LOADER
from paretune.system.cpu_cores import shares
from paretune.system.device_lock import exclusive_device

ARTEFACT = 0
"""Index of the artefact in the comparison; the reference has the last index."""


@dataclass(frozen=True)
class Duet:
    """Measurement of an artefact beside a reference artefact, or of the reference alone."""

    comparison: Comparison
    """Comparison of the artefact (0) and the reference (1)."""
    latency: Latency
    """The artefact's own samples."""
    reference: Latency
    """The reference's own samples."""

    @property
    def _partner(self) -> int:
        return int(self.comparison.latency.shape[2]) - 1

    @cached_property
    def ratio(self) -> LatencyRatio:
        """The latency of the artefact as a share of the reference's, from image to boxes."""
        return self.comparison.ratio(ARTEFACT, self._partner)

    @cached_property
    def network_ratio(self) -> LatencyRatio:
        """The time of the artefact's network as a share of that of the reference's."""
        return self.comparison.ratio(ARTEFACT, self._partner, network=True)

    @property
    def doubts(self) -> list[str]:
        """Return why the ratio is not known well enough; empty if it is."""
        narrow = device_kind(self.latency.target.device).narrow
        if self.ratio.half <= narrow:
            return []
        limits = f"{self.ratio.low:.3g} to {self.ratio.high:.3g} times the reference's latency"
        return [f"known to ±{self.ratio.half:.1%} ({limits}), ±{narrow:.0%} is wanted"]

    @property
    def facts(self) -> dict[str, Any]:
        """Return the ratios, and the latency of the reference during the duet in ms, as plain data."""
        median_of = {False: self.comparison.latency, True: self.comparison.network}
        whole, network = (float(np.nanmedian(median_of[part][:, :, self._partner])) for part in (False, True))
        return {
            **ratio_figures(self.ratio, self.network_ratio),
            "mode": self.comparison.mode,
            "reference_ms": whole,
            "reference_network_ms": network,
            "calm": not (self.latency.contended or self.reference.contended),
            "rounds": self.comparison.latency.shape[0],
            "unstable": bool(self.doubts),
        }

    def metrics(self) -> dict[str, float]:
        """Return the artefact's own figures, without its latency on the sweep's scale."""
        return {
            name: value for name, value in self.latency.metrics().items() if name not in self.latency.trusted_figures
        }

    @property
    def reasons(self) -> dict[str, str]:
        """Return the reason for each of the artefact's own figures that is not known."""
        return {name: why for name, why in self.latency.reasons.items() if name not in self.latency.trusted_figures}

    @property
    def notes(self) -> tuple[str, ...]:
        """Return remarks for readers of the figures; each begins with its flag."""
        return self.latency.notes_with(self.doubts)

    def save_samples(self, file: Path) -> None:
        """Write the raw samples of both artefacts (npz), each with its round, block and artefact."""
        self.comparison.save_samples(file)


def measure_duet(
    artefact: Path,
    reference: Path | None,
    images: Sequence[Image] | Path,
    target: Target,
    protocol: MeasurementProtocol = MeasurementProtocol(),  # noqa: B008 - frozen
    *,
    loader: str = LOADER,
    count: Callable[[int, int], None] = lambda _done, _of: None,
) -> Duet:
    """Measure an artefact beside a reference, alone on the target's device.

    After ``protocol.repetitions`` rounds, further ones are run until the ratio is known well enough
    (``DeviceKind.narrow``), within ``protocol.spare`` and ``protocol.patience``. One round is enough for the reference
    itself: it has no ratio, and all later duets measure its latency again.

    Args:
        artefact: folder of the artefact.
        reference: folder of the reference; None measures the artefact alone, as its own reference.
        images: RGB uint8 images, or a file of ``saved_images``; inferences take them in turn.
        target: device and threads.
        protocol: numbers and lengths of rounds, time limits.
        loader: ``module:function`` (folder, target) → predictor.
        count: called before each round with the number done and the number of all; no process measures then.

    Raises:
        UserError: an artefact is damaged, or the machine has fewer cores than the target's threads.
        RuntimeError: a measuring process died or hung, or two of them did not run the same.
    """
    folders = [artefact] if reference is None else [artefact, reference]
    rng, rounds = np.random.default_rng(0), list[MeasuringRound]()
    with exclusive_device(target.device), saved_images(images) as file, monitor_device(target) as watch:
        surroundings, began = environment(target), time.monotonic()
        setting = MeasuringSettings(file, target, protocol, watch, loader)
        while True:
            count(len(rounds), 1 if reference is None else max(protocol.repetitions, len(rounds) + 1))
            blocks = len(rounds[0].batches) if rounds else None
            rounds.append(run_round(folders, setting, rng, blocks=blocks))
            spent = time.monotonic() - began
            if reference is not None and len(rounds) < protocol.repetitions:
                continue
            duet = _duet(rounds, target, surroundings, watch)
            last = len(rounds) >= protocol.repetitions + protocol.spare
            late = spent * (1 + 1 / len(rounds)) > protocol.patience
            if reference is None or last or late or not duet.doubts:
                return duet


def _duet(rounds: Sequence[MeasuringRound], target: Target, surroundings: Mapping[str, Any], watch: GpuMonitor) -> Duet:
    gpu = watch.contention([look for one in rounds for look in one.looks])
    comparison = summarised(rounds, target, surroundings, gpu)
    partner = comparison.latency.shape[2] - 1
    one, other = (_latency(rounds, index, comparison, target) for index in (ARTEFACT, partner))
    return Duet(comparison, one, other)


def _latency(rounds: Sequence[MeasuringRound], index: int, comparison: Comparison, target: Target) -> Latency:
    """Return the latency of one artefact from its own samples.

    Raises:
        RuntimeError: two of its processes have different facts.
    """
    own = comparison.place[:, 2] == index
    batches = [[row[index] for row in one.batches] for one in rounds]
    ran = [{name: value for name, value in one.facts[index].items() if name not in COLD} for one in rounds]
    if any(facts != ran[0] for facts in ran):
        raise RuntimeError(f"the repetitions did not run the same: {ran}")
    allocated = [batch.allocator_bytes / 2**20 for one in batches for batch in one if batch.allocator_bytes]
    return Latency(
        rows=comparison.rows[own],
        repetition=comparison.place[own, 0],
        target=target,
        memory_mib_peak=median_low(max(batch.peak_bytes for batch in one) for one in batches) / 2**20,
        allocator_mib_peak=max(allocated, default=None),
        elsewhere=shares([batch.elsewhere for one in batches for batch in one]),
        steady=comparison.steady,
        cold={name: median(one.facts[index][name] for one in rounds) for name in COLD},
        facts={name: value for name, value in comparison.facts[index].items() if name not in COLD},
        gpu=comparison.gpu,
    )
