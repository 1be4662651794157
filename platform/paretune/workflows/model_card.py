"""The model card of a bundle: Markdown, of facts alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from paretune.core.counts import counted
from paretune.core.metrics import Metric, metric_of
from paretune.core.recipe_text import recipe_line
from paretune.core.types import SURE
from paretune.storage.artefact import Artefact

UNKNOWN = "unknown"


def model_card(artefact: Artefact, facts: Mapping[str, Any]) -> str:
    """Return the card of an artefact.

    Args:
        artefact: in the bundle.
        facts: contents of ``bundle.json``.
    """
    detector = next(iter(artefact.detector))
    kinds = f"{len(artefact.classes)} class{'es' if len(artefact.classes) != 1 else ''}"
    lines = [
        f"# Detector {detector} for {kinds}",
        "",
        f"Finds {', '.join(artefact.classes)} in images. Recipe: {_recipe(artefact)}.",
        "",
        *_use(facts),
        *_figures(facts),
        *_origin(artefact, facts),
        *_limits(artefact),
    ]
    return "\n".join(lines) + "\n"


def _recipe(artefact: Artefact) -> str:
    try:
        return recipe_line(artefact.recipe)
    except (AttributeError, KeyError, StopIteration, TypeError):  # an artefact that was made without a recipe
        return f"{UNKNOWN} (the artefact names none)"


def _use(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield how to run it."""
    yield "## Use\n"
    if reason := facts.get("loader_missing"):
        yield f"There is no `detect.py`: {reason}.\n"
        return
    yield "```bash\npip install -r requirements.txt     # the runtime and numpy; pillow or OpenCV to read image files"
    yield "python detect.py --check                # compares every file with its sha256 in manifest.json"
    yield "python detect.py photo.jpg              # prints what it finds\n```\n"
    yield "```python\nfrom detect import detect\n"
    yield "boxes, scores, labels = detect(image)   # (H, W, 3) uint8 RGB -> pixels x1 y1 x2 y2, scores, classes\n```\n"
    yield f"`detect` returns boxes down to the score in `settings.json`; the command prints those from {SURE:g}.\n"


def _figures(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the tables of figures."""
    yield "## Figures\n"
    figures, baseline = facts.get("figures"), facts.get("baseline") or {}
    if not figures:
        yield "All figures are unknown: the bundle was made from an artefact alone. Export from a sweep for them.\n"
        return
    target, machine = facts["target"], facts.get("machine") or {}
    where = ", ".join(f"{name} {value}" for name, value in machine.items())
    threads = counted(target["threads"], "thread")
    yield f"Target `{target['name']}`: {target['device']}, {threads} ({where or 'machine unknown'})."
    yield f"Latency: {facts.get('latency_mode') or UNKNOWN} measurement. In brackets: 95 % interval.\n"
    if facts.get("unstable"):
        yield f"The latency is unstable: {facts['unstable']}.\n"
    yield "| figure | this model | eager baseline | on `test` | meaning |\n|---|---|---|---|---|"
    test = facts.get("test") or {}
    for name, ends in figures.items():
        if ends["value"] is not None:
            row = _row(name)
            cells = [_cell(name, entry.get(name)) for entry in (figures, baseline, test)]
            yield f"| {name} | {' | '.join(cells)} | {row.about} |"
    yield ""
    missing = {
        name: why for name, why in (facts.get("reasons") or {}).items() if not (figures.get(name) or {}).get("value")
    }
    if missing:
        yield "Unknown:\n"
        yield from (f"- {name}: {why}" for name, why in missing.items())
        yield ""
    if classes := facts.get("per_class"):
        yield "| class | AP |\n|---|---|"
        yield from (f"| {name} | {UNKNOWN if ap is None else f'{ap:.3f}'} |" for name, ap in classes.items())
        yield ""
    else:
        yield "AP of each class: unknown (the record of the trial has none).\n"
    for name, other in (facts.get("other_targets") or {}).items():
        cells = [f"{metric} {_cell(metric, other[metric])}" for metric in other if metric.startswith("latency_ms")]
        yield f"- target `{name}`: {', '.join(cells) or UNKNOWN}"


def _row(name: str) -> Metric:
    """Return the row of a metric, also of a difference or an old metric that the table lacks."""
    try:
        return metric_of(name)
    except ValueError:
        change = name.endswith("_delta")
        return Metric(name, "", "maximize", "difference to the eager baseline's" if change else UNKNOWN, digits=3)


def _cell(name: str, ends: Mapping[str, float | None] | None) -> str:
    """Return a figure with its unit and interval."""
    if ends is None or ends["value"] is None:
        return "-"
    row = _row(name)
    interval = ""
    if ends["low"] is not None and ends["high"] is not None:
        interval = f" [{row.number(ends['low'])}, {row.number(ends['high'])}]"
    return f"{row.text(ends['value'])} {row.unit}".rstrip() + interval


def _origin(artefact: Artefact, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what it was made from."""
    yield "## Origin\n"
    if facts.get("sweep"):
        yield f"- sweep {facts['sweep']}, trial {facts['trial']}: {'; '.join(facts['why'])}"
    data = facts.get("data") or {}
    described = json.dumps(data["dataset"], ensure_ascii=False) if data.get("dataset") else UNKNOWN
    yield f"- trained on: {described}"
    yield f"- fingerprint of the data: {data.get('fingerprint') or f'{UNKNOWN} (none is recorded)'}"
    yield f"- licence of the data: {UNKNOWN} (no dataset format tells it)"
    yield f"- parameters: {artefact.params or UNKNOWN}; operations of an inference: {artefact.flops or UNKNOWN}"
    if artefact.calibration:
        yield f"- calibration: {json.dumps(artefact.calibration)}"
    yield from (f"- {note}" for note in artefact.notes)
    versions = ", ".join(f"{name} {value}" for name, value in (facts.get("libraries") or {}).items())
    yield f"- versions when it was measured: {versions or UNKNOWN}"
    yield f"- written by paretune {facts['paretune']}\n"
    yield f"Recipe:\n\n```json\n{json.dumps(artefact.recipe, indent=1, ensure_ascii=False)}\n```\n"


def _limits(artefact: Artefact) -> Iterator[str]:
    """Yield what it is for, and what it is not."""
    kept = artefact.thresholds
    yield "## Intended use and limits\n"
    yield "- It is for images like those it was trained on; the figures hold for those and for the machine above only."
    yield f"- It finds at most {kept.detections} boxes in an image, of the classes above and no others."
    yield f"- Images are resized to {artefact.input_size} pixels: objects of a few pixels after that are not found."
    yield "- Whether it treats groups of people alike was not tested; it is not fit for decisions on safety."
