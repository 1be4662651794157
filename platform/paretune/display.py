"""What is shown in a terminal: the front as a table, a line for each trial."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from paretune.front import Objective, pareto_front
from paretune.records import Record


def recipe_line(recipe: Mapping[str, Any]) -> str:
    """Return a recipe in a few words: ``160 prune 0.3 → finetune 6 → int8 → onnxruntime``."""
    words = [str(recipe["input_size"])]
    for step in recipe["steps"]:
        name, fields = next(iter(step.items()))
        match name:
            case "prune":
                words.append(f"prune {fields['ratio']:g} {fields['importance']}")
            case "finetune":
                words.append(f"finetune {fields['epochs']}")
            case "quantize":
                words.append(str(fields["scheme"]))
            case _:
                words.append(name)
    return " → ".join([*words, *recipe["runtime"]])


def trial_line(record: Record, records: Sequence[Record], objectives: Sequence[Objective], budget: int) -> str:
    """Return what one finished trial says: how far the sweep is, what came of it, the best so far."""
    failed = sum(r.state == "failed" for r in records)
    head = f"trial {record.number} ({len(records)}/{budget} done{f', {failed} failed' if failed else ''})"
    recipe = recipe_line(record.recipe)
    if record.state == "failed":
        return f"{head}: {recipe}: FAILED: {(record.failure or '').splitlines()[0][:160]}"
    m = record.metrics
    figures = (
        f"map {_number(m.get('map'), 3)}, map50 {_number(m.get('map50'), 3)}, {_number(m.get('latency_ms_p50'), 2)} ms"
    )
    complete = [r for r in records if r.state == "complete"]
    front = [complete[i].number for i in pareto_front([r.metrics for r in complete], objectives)]
    base = next((r.metrics.get("latency_ms_p50") for r in complete if r.number == 0), None)
    gain = f" ({base / m['latency_ms_p50']:.1f}x eager)" if base and record.number and m.get("latency_ms_p50") else ""
    mark = f"; on the front of {len(front)}" if record.number in front else ""
    return f"{head}: {recipe}: {figures}{gain}{mark}"


def time_left(records: Sequence[Record], budget: int) -> str:
    """Return an estimate of the time that is left, from the trials done, the two baselines apart."""
    mine = [sum(r.seconds.values()) for r in records if r.origin != "baseline"]
    left = budget - len(records)
    if not mine or left <= 0:
        return ""
    return f", about {max(1, round(left * sum(mine) / len(mine) / 60))} min left"


def front_table(front: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> str:
    """Render a front as a table, with speed-ups against both baselines and map differences."""
    from rich.console import Console
    from rich.table import Table

    baseline = front["baseline"]
    said = ", ".join(f"{metric} ({direction})" for metric, direction in front["objectives"].items())
    table = Table(title=f"front of {front['sweep']} on target {front['target']}: {said}", title_justify="left")
    for name in (
        "trial",
        "recipe",
        "map",
        "Δ map",
        "map50",
        "Δ map50",
        "ms p50",
        "x eager",
        "x ONNX RT",
        "MiB",
        "params",
    ):
        table.add_column(
            name, justify="left" if name == "recipe" else "right", overflow="fold", no_wrap=name != "recipe"
        )
    for point in front["front"]:
        table.add_row(*_row(point, baseline, comparison))
    if baseline is not None and baseline["trial"] not in [p["trial"] for p in front["front"]]:
        table.add_section()
        table.add_row(*_row(baseline, baseline, comparison), style="dim")
    buffer = io.StringIO()
    Console(file=buffer, width=140, color_system=None).print(table)
    return buffer.getvalue().rstrip()


def _row(
    point: Mapping[str, Any], baseline: Mapping[str, Any] | None, comparison: Mapping[str, Any] | None
) -> list[str]:
    m = point["metrics"]
    base = baseline["metrics"] if baseline else {}
    gains = ((comparison or {}).get("trials") or {}).get(str(point["trial"]), {})
    return [
        str(point["trial"]),
        recipe_line(point["recipe"]),
        _number(m["map"], 3),
        _difference(m["map"], base.get("map")),
        _number(m["map50"], 3),
        _difference(m["map50"], base.get("map50")),
        _number(m["latency_ms_p50"], 2),
        _gain(gains.get("eager")),
        _gain(gains.get("onnxruntime")),
        _number(m["size_mib"], 2),
        _thousands(m["params"]),
    ]


def _gain(row: Mapping[str, Any] | None) -> str:
    """Return a speed-up with its interval; a tie is called one."""
    if row is None:
        return "-"
    tie = " tied" if row["verdict"] == "tied" else ""
    return f"{row['speedup']:.2f} [{row['low']:.2f}, {row['high']:.2f}]{tie}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _difference(value: float | None, base: float | None) -> str:
    return "-" if value is None or base is None else f"{value - base:+.3f}"


def _thousands(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e6:.2f} M"
