"""The energy of an inference: a fresh process predicts for some seconds, and the device's counters are read.

The energy is that of all packages of a CPU, or that of the GPU alone. Counters measure the whole device, whoever uses
it; power is never estimated from a data sheet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paretune.core.devices import device_kind, number_of
from paretune.core.target import Target
from paretune.core.types import Image
from paretune.profiling.energy.meters import MeterReading
from paretune.profiling.gpu.contention import foreigners, monitor_device
from paretune.profiling.latency.samples import MeasurementProtocol, SampleBatch, column
from paretune.profiling.latency.shared_images import saved_images
from paretune.profiling.latency.worker_client import LOADER, Worker
from paretune.system.device_lock import exclusive_device

WINDOW, FINALIST_WINDOW, IDLE = 5.0, 10.0, 5.0
"""Seconds of predicting, of predicting for what is published, and of idling before.

A step of NVML's counter, 100 ms, is 2 % of the first and 1 % of the second."""
OTHERS = 0.1
"""Share of a core above which others' work on the machine is noted; part of it is ours, between inferences."""


@dataclass(frozen=True)
class Energy:
    """The energy of an artefact on a target; a figure that is None is not known, and ``reasons`` has its reason."""

    source: str
    """``nvml_counter``, ``nvml_power_integrated``, ``rapl``, or ``unavailable:`` and the reason."""
    mj_image: float | None = None
    """Millijoules per image, of all energy of the device in that time."""
    mj_image_net: float | None = None
    """Millijoules per image above the energy of the idle device in that time."""
    watts: float | None = None
    idle_watts: float | None = None
    seconds: float = 0.0
    images: int = 0
    """Number of inferences in these seconds."""
    celsius: tuple[float, float] | None = None
    """Temperature of the GPU before and after."""
    notes: tuple[str, ...] = ()
    """Remarks for readers of the figures; each begins with its flag."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    failed: bool = False
    """True if the energy is unknown because a process failed that could have measured it."""

    def figures(self) -> dict[str, float | None]:
        """Return the figures by the names under which they are logged."""
        return {"energy_mj_image": self.mj_image, "energy_mj_image_net": self.mj_image_net}

    def tree(self) -> dict[str, Any]:
        """Return the energy as plain data."""
        return {**asdict(self), "notes": list(self.notes), "celsius": self.celsius and list(self.celsius)}

    def added_to(self, latency: Mapping[str, Any]) -> dict[str, Any]:
        """Return the plain data of a latency with the figures of the energy, or their reasons, added."""
        known = {name: value for name, value in self.figures().items() if value is not None}
        metrics, reasons = {**latency["metrics"], **known}, {**latency["reasons"], **self.reasons}
        return {**latency, "metrics": metrics, "reasons": reasons, "energy": self.tree()}

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the energy as lines of text."""
        unknown = [f"{name}: not known, {why}" for name, why in self.reasons.items()]
        if self.mj_image is None:
            return tuple(unknown[:1])
        net = "" if self.mj_image_net is None else f", {self.mj_image_net:.3g} mJ above idle"
        idle = "" if self.idle_watts is None else f", idle {self.idle_watts:.3g} W"
        how = f"{self.watts:.3g} W on average{idle}; {self.source}, {self.images} images in {self.seconds:.1f} s"
        return (f"energy {self.mj_image:.3g} mJ an image{net}: {how}", *unknown, *self.notes)


def unavailable(reason: str, *, failed: bool = False) -> Energy:
    """Return an energy without figures, with this reason."""
    return Energy(f"unavailable:{reason}", reasons=dict.fromkeys(Energy("").figures(), reason), failed=failed)


def energy(
    artefact: Path,
    images: Sequence[Image] | Path,
    target: Target,
    *,
    seconds: float = WINDOW,
    idle_seconds: float = IDLE,
    protocol: MeasurementProtocol = MeasurementProtocol(),  # noqa: B008 - frozen
    loader: str = LOADER,
) -> Energy:
    """Measure the energy of an inference, alone on the target's device: first idle, then with a warmed-up process.

    No process is started if no counter can be read.

    Args:
        artefact: folder of the artefact.
        images: RGB uint8 images, or a file of ``saved_images``; inferences take them in turn.
        target: device and threads.
        seconds: time of predicting, at least ``WINDOW``; ``FINALIST_WINDOW`` for what is published.
        idle_seconds: time before it in which the device idles.
        protocol: warm-up and time limits.
        loader: ``module:function`` (folder, target) → predictor.

    Returns:
        The figures, or the reason if the process died or hung.

    Raises:
        UserError: the artefact is damaged, or the machine has fewer cores than the target's threads.
        ValueError: ``seconds`` is too short for the counters.
    """
    if seconds < WINDOW:
        raise ValueError(f"seconds is {seconds:g}: counters of energy need {WINDOW:g} s at least")
    meter = _meter(target)
    if isinstance(meter, str):
        return unavailable(meter)
    try:
        with exclusive_device(target.device, alone=True), saved_images(images) as file:
            with meter.span() as idle:
                time.sleep(idle_seconds)
            with Worker(artefact, file, target, protocol, loader) as worker:
                worker.warm_up()
                with monitor_device(target) as watch, watch.around(worker.pid) as looks, meter.span() as busy:
                    batch = worker.sample(seconds, 1)
    except RuntimeError as error:
        return unavailable(str(error), failed=True)
    others = foreigners(looks) if target.device != "cpu" else _others(busy, batch)
    notes = [f"contended: {'; '.join(others)}, and that energy is counted too"] if others else []
    if (gpu := watch.contention(looks)) is not None:
        notes += gpu.notes
    return _figures(idle, busy, len(batch.rows), tuple(notes))


def unsupported_reason(target: Target) -> str | None:
    """Return why the energy of a target's device cannot be measured on this machine; None if it can."""
    meter = _meter(target)
    return meter if isinstance(meter, str) else None


def _meter(target: Target) -> Any:
    """Return the meter of the target's device, or why there is none."""
    return device_kind(target.device).meter(number_of(target.device))


def _others(busy: MeterReading, batch: SampleBatch) -> list[str]:
    """Return a line with the share of the machine's work by other processes, whose energy is in the counters too."""
    if busy.work is None:
        return []
    foreign = (busy.work - float(column(batch.rows, "latency_cpu_ns").sum()) / 1e9) / busy.seconds
    return [f"others used {foreign:.0%} of a core"] if foreign > OTHERS else []


def _figures(idle: MeterReading, busy: MeterReading, images: int, notes: tuple[str, ...]) -> Energy:
    """Return the figures; there is no net energy if idle and busy power have different sources."""
    if busy.joules is None or busy.watts is None:
        return unavailable(busy.reason)
    net, reasons = None, {}
    if idle.watts is None or idle.source != busy.source:
        reasons["energy_mj_image_net"] = f"idle power is not known by {busy.source}: {idle.reason or idle.source}"
    elif busy.watts <= idle.watts:
        reasons["energy_mj_image_net"] = f"{busy.watts:.3g} W at work is not above the {idle.watts:.3g} W of idling"
    else:
        net = (busy.watts - idle.watts) * busy.seconds / images * 1e3
    return Energy(
        source=busy.source,
        mj_image=busy.joules / images * 1e3,
        mj_image_net=net,
        watts=busy.watts,
        idle_watts=idle.watts,
        seconds=busy.seconds,
        images=images,
        celsius=busy.celsius,
        notes=notes,
        reasons=reasons,
    )
