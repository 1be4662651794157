"""Tables of a profile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paretune.core.counts import counted
from paretune.core.metrics import UNKNOWN
from paretune.profiling.energy.measure import Energy
from paretune.profiling.latency.compare import Comparison
from paretune.profiling.latency.deployment import DeploymentLatency
from paretune.profiling.latency.result import STAGES, Latency
from paretune.profiling.latency.samples import (
    P50_SAMPLES,
    P90_SAMPLES,
    P95_SAMPLES,
    P99_SAMPLES,
    TIMED,
    Stage,
    milliseconds,
)
from paretune.profiling.latency.throughput import Throughput
from paretune.profiling.operators import OperatorTimes
from paretune.reports.tables import Table
from paretune.runtimes.base import Operator

TOP = 10
"""Layers with a row of their own; the others are added up."""
ABOUT_STAGES = """Each percentile is that of its own row, in wall time, so the rows of the stages need not add up to
the row end to end: the slowest inferences of one stage are not those of another. Shares are of medians in the mode that
the notes name."""
ABOUT_RATIOS = """These medians differ from those of each artefact alone, further down: here the artefacts take turns,
so that a disturbance slows all of them. Times as fast is the geometric mean of the rounds' ratios, not the ratio of the
two medians."""
ABOUT_LAYERS = """It may differ from the network's p50 of the stages, which is wall time of all inferences, disturbed
ones among them."""
ABOUT_STREAMS = """p50 of one inference is that while all streams run, and so longer than the latency alone."""
PERCENTILES = ((50, P50_SAMPLES), (90, P90_SAMPLES), (95, P95_SAMPLES), (99, P99_SAMPLES))


def stage_table(
    name: str, latency: Latency, energy: Energy | None = None, besides: DeploymentLatency | str | None = None
) -> Table:
    """Return the costs of an artefact by stage: percentiles in ms, CPU time and share, with energy in the notes.

    The further stages of a deployment follow the total, to which they do not belong; a text is why they are not known.
    """
    stages: tuple[Stage, ...] = (*STAGES, "latency")
    rows = tuple(_stage(latency, stage) for stage in stages)
    if isinstance(besides, DeploymentLatency):
        single = latency.target.device == "cpu" and latency.target.threads == 1
        rows += (
            _beside("besides: decode a JPEG file", besides.decode, single),
            _beside(f"besides: postprocess, score {besides.score:g}", besides.postprocess, single),
        )
        if isinstance(besides.transfer, np.ndarray):
            rows += (_beside("in the network: to the GPU and back", besides.transfer, single),)
    facts, metrics = latency.facts, latency.metrics()
    low, high = latency.spread(latency.mode)
    count, processes = int(metrics["latency_samples"]), len(np.unique(latency.repetition))
    clean, cold = metrics["clean_fraction"], latency.cold
    medians = f"medians of the processes ({latency.mode} time) {low:.3g} to {high:.3g} ms"
    interval = latency.interval
    ends = interval if isinstance(interval, str) else f"{interval.low:.4g} to {interval.high:.4g} ms"
    loading = f"loaded in {cold['load_ms']:.0f} ms, first inference {cold['first_inference_ms']:.1f} ms"
    lines = [
        f"{count} inferences in {processes} fresh processes, {clean:.0%} undisturbed; {medians}",
        f"95 % interval of the median end to end: {'not known, ' * isinstance(interval, str)}{ends}",
        f"peak memory {latency.memory_mib_peak:.0f} MiB; {loading}",
    ]
    if latency.target.device != "cpu":
        names = {"device_mib_peak": "on the GPU", "allocator_mib_peak": "of it by torch's allocator"}
        memory = {name: latency.device_memory[name] for name in names}
        peaks = {
            name: f"not known, {one}" if isinstance(one, str) else f"{one:.0f} MiB" for name, one in memory.items()
        }
        lines.append("peak memory " + "; ".join(f"{names[name]}: {peak}" for name, peak in peaks.items()))
    lines += [f"{figure}: not known, {reason}" for figure, reason in latency.reasons.items() if "_p9" in figure]
    lines += [f"besides: not known, {besides}"] if isinstance(besides, str) else []
    if isinstance(besides, DeploymentLatency) and isinstance(besides.transfer, str):
        lines.append(f"to the GPU and back: not known, {besides.transfer}")
    lines += () if energy is None else energy.lines
    title = f"{name}: {facts['runtime']}, {facts['precision']}, {_where(latency)}"
    head = ("stage", "p50 ms", "p90", "p95", "p99", "CPU p50", "share")
    spare = ("p99", "p95", "CPU p50", "p90")
    notes = (*lines, *latency.notes)
    return Table(title, head, rows, notes, words=("stage",), spare=spare, share="share", about=ABOUT_STAGES)


def ratio_table(names: Sequence[str], comparison: Comparison) -> Table:
    """Return latencies of artefacts that were measured interleaved, and their ratios to the first."""
    entries = comparison.to_dict()["artefacts"]
    rows = []
    for index, (name, entry) in enumerate(zip(names, entries, strict=True)):
        first = index == comparison.baseline
        words = [f"{entry['latency_ms_p50']:.3f}", f"{entry['network_ms_p50']:.3f}"]
        for ratio in (entry["latency"], entry["network"]):
            times = f"{1 / ratio['ratio']:.2f}x [{1 / ratio['high']:.2f}, {1 / ratio['low']:.2f}]"
            words.append("1" if first else f"{times} {ratio['verdict']}")
        rows.append((name, *words))
    head = ("artefact", "p50 ms", "network ms", "times as fast", "network alone")
    rounds = comparison.latency.shape[0]
    return Table(
        f"interleaved, {rounds} rounds of {TIMED[comparison.mode]}, against the first",
        head,
        tuple(rows),
        comparison.notes,
        words=("artefact",),
        spare=("network ms", "network alone", "p50 ms"),
        about=ABOUT_RATIOS,
    )


def operator_table(name: str, found: OperatorTimes) -> Table:
    """Return the slowest operators of a network, and the sum of the others."""
    first, others = found.operators[:TOP], found.operators[TOP:]
    rows = [(layer_of(one), one.kind, f"{found.scaled_ms([one]):.3f}", f"{found.share([one]):.1%}") for one in first]
    if others:
        ms, share = found.scaled_ms(others), found.share(others)
        rows.append((f"{len(others)} others", "", f"{ms:.3f}", f"{share:.1%}"))
    about = f"The rows add up to {found.network_ms:.3f} ms, the median of the network without counting. {ABOUT_LAYERS}"
    head, words = ("layer", "kind", "ms", "share"), ("layer", "kind")
    return Table(f"{name}: layers", head, tuple(rows), found.notes, words=words, share="share", about=about)


def kind_table(name: str, found: OperatorTimes) -> Table:
    """Return the time of a network by kind of operator."""
    groups = [(group.name, group.count, group.scaled_ms, group.share) for group in found.by_kind()]
    rest = groups[TOP:]
    if rest:
        groups[TOP:] = [(f"{len(rest)} other kinds", *(sum(column) for column in list(zip(*rest, strict=True))[1:]))]
    rows = tuple((kind, str(number), f"{ms:.3f}", f"{share:.1%}") for kind, number, ms, share in groups)
    head, about = ("kind", "operators", "ms", "share"), "The same time as that of the layers, in other groups."
    return Table(f"{name}: kinds of operators", head, rows, share="share", about=about)


def operator_tables(names: Sequence[str], counted: Sequence[OperatorTimes | str]) -> list[Table]:
    """Return two tables for each artefact whose operators are known, or a note with the reason."""
    tables = []
    for name, operators in zip(names, counted, strict=False):
        if isinstance(operators, str):
            tables.append(Table(f"{name}: layers", notes=(f"operators: not known, {operators}",)))
        else:
            tables += [operator_table(name, operators), kind_table(name, operators)]
    return tables


def layer_of(operator: Operator) -> str:
    """Return the name of an operator in a table: its module, or else the runtime's name."""
    return operator.name if operator.module is None else operator.module


def _stage(latency: Latency, stage: Stage) -> tuple[str, ...]:
    wall, cpu = (milliseconds(latency.rows, stage, mode) for mode in ("wall", "cpu"))
    single = latency.target.device == "cpu" and latency.target.threads == 1
    middle, whole = (np.median(milliseconds(latency.rows, one, latency.mode)) for one in (stage, "latency"))
    name = "end to end" if stage == "latency" else stage
    return (name, *_percentiles(wall), f"{np.median(cpu):.3f}" if single else UNKNOWN, f"{middle / whole:.0%}")


def _percentiles(times: NDArray[np.float64]) -> list[str]:
    return [f"{np.percentile(times, p):.3f}" if len(times) >= needed else UNKNOWN for p, needed in PERCENTILES]


def _beside(name: str, times: NDArray[np.float64], single: bool) -> tuple[str, ...]:
    wall, cpu = times.T
    return (name, *_percentiles(wall), f"{np.median(cpu):.3f}" if single else UNKNOWN, UNKNOWN)


def throughput_table(name: str, loads: Sequence[Throughput | str]) -> Table:
    """Return the throughput of several streams, and its share of the same number of single streams.

    A text is why the throughput of a load is not known.
    """
    measured = [load for load in loads if isinstance(load, Throughput)]
    one = next(iter(measured), None)
    rows = [
        (
            str(each.streams),
            str(each.batch),
            f"{each.images_per_second:.1f}",
            f"{each.low:.1f} to {each.high:.1f}",
            f"{each.images_per_second / (one.images_per_second / one.streams * each.streams):.0%}",
            f"{each.latency_ms_p50:.3f}",
        )
        for each in measured
        if one is not None
    ]
    head = ("streams", "batch", "images/s", "rounds", "of the first, times streams", "p50 ms of one inference")
    notes = tuple(f"{each.streams} streams, batch {each.batch}: {note}" for each in measured for note in each.notes)
    unknown = [load for load in loads if isinstance(load, str)]
    return Table(f"{name}: throughput", head, tuple(rows), (*notes, *unknown), about=ABOUT_STREAMS)


def _where(latency: Latency) -> str:
    target = latency.target
    threads = counted(target.threads, "thread")
    return f"{latency.facts['cpu']}, {threads}" if target.device == "cpu" else target.device
