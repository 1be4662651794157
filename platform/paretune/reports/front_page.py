"""The front page: one HTML file with its style, its script and its data, which needs no other file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from paretune.core.metrics import PRINTED
from paretune.reports.html import render, source

SCRIPTS = ("theme.js", "data.js", "state.js", "plot.js", "table.js", "compare.js", "charts.js", "main.js")
"""Parts of the script, in their order."""
GROUPS = ("metrics", "params", "seconds")
"""Fields of a trial that are mappings and become a column for each key."""
DETAILED = 300
"""Most trials whose reasons, notes, classes and worst images the page holds; ``trials.json`` has those of all."""
DETAILS = ("reasons", "notes", "classes", "worst")
MOST_BYTES = 2_800_000
"""Most bytes of the data on the page, which with style and script stays below 3 MB."""
PICTURE_BYTES = 700_000
"""Most bytes of the pictures of worst images among them."""
ENDS = ("low", "high")
SHARED = ("width", "height", "objects", "truth", "picture")
"""What the picture of an image has in common in all trials."""
DIGITS = 5
"""Significant digits of the numbers on the page."""
SHORT = 64
"""Most distinct numbers of a column that is stored as its distinct values and their places."""
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""Characters that could end the data's element, or a line of script → their escapes in JSON."""


def front_html(data: Mapping[str, Any]) -> str:
    """Return the page of a sweep.

    Args:
        data: result of ``page_data.page_data``.
    """
    from markupsafe import Markup

    text = render(
        "page/page.html",
        sweep=data["sweep"],
        style=source("page.css"),
        script=source(*SCRIPTS),
        data=Markup(_at_most(packed(data), MOST_BYTES)),  # noqa: S704 - escaped for its place
    )
    return text.encode("utf-8", "backslashreplace").decode()  # names of files may hold what UTF-8 lacks


def safe_json(tree: Any) -> str:
    """Return JSON in ASCII that may stand inside a ``script`` element whatever its texts are."""
    text = json.dumps(tree, separators=(",", ":"), allow_nan=False)
    for character, escape in UNSAFE.items():
        text = text.replace(character, escape)
    return text


def _at_most(tree: dict[str, Any], most: int) -> str:
    """Return the JSON of a packed tree; if it is too long, metrics and then parameters are left out.

    Args:
        tree: result of ``packed``.
        most: largest number of bytes.
    """
    text, trials = safe_json(tree), tree["trials"]
    while len(text) > most:
        shown = {*PRINTED, *tree["objectives"], *(f"{name}_{end}" for name in tree["objectives"] for end in ENDS)}
        spare = [("metrics", name) for name in trials["metrics"] if name not in shown]
        spare = spare or [("params", name) for name in trials["params"]]
        if not spare:
            return text
        left_out = sorted(spare, key=lambda place: -len(json.dumps(trials[place[0]][place[1]])))[
            : max(1, len(spare) // 4)
        ]
        for group, name in left_out:
            del trials[group][name]
        gone = {name for group, name in left_out if group == "metrics"}
        tree["metrics"] = [row for row in tree["metrics"] if row["name"] not in gone]
        tree["left_out"] = [*tree.get("left_out", ()), *(name for _, name in left_out)]
        text = safe_json(tree)
    return text


def packed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree of a page with its trials as columns and its hypervolume as steps, a tenth as long."""
    trials: Sequence[Mapping[str, Any]] = data["trials"]
    detailed = _detailed(data)
    rows = [_without_details(row) if index not in detailed else row for index, row in enumerate(trials)]
    fields = [name for name in (rows[0] if rows else ()) if name not in GROUPS]
    own = {name: _column([row[name] for row in rows]) for name in fields}
    groups = {group: _columns([row[group] for row in rows]) for group in GROUPS}
    targets = [{**target, "series": _steps(target["series"])} for target in data["targets"]]
    pictures = _pictures(data["pictures"], PICTURE_BYTES)
    return {**data, "trials": {"count": len(rows), "own": own, **groups}, "targets": targets, "pictures": pictures}


def _pictures(trials: Mapping[str, Mapping[str, Any]], most: int) -> dict[str, Any]:
    """Return the pictures of worst images, each image once; those of the last trials are left out if they are too long.

    Args:
        trials: trial → its pictures, the most wanted first.
        most: largest number of bytes as JSON.
    """
    images, shown, spent = dict[str, Any](), dict[str, Any](), 0
    for number, kept in trials.items():
        new = {
            one["image"]: {name: one[name] for name in SHARED} for one in kept["images"] if one["image"] not in images
        }
        own = {
            "confidence": kept["confidence"],
            "images": [{name: value for name, value in one.items() if name not in SHARED} for one in kept["images"]],
        }
        spent += len(safe_json([new, own])) + len(number)
        if spent > most:
            break
        images |= new
        shown[number] = own
    return {"images": images, "trials": shown, "left_out": len(trials) - len(shown)}


def _detailed(data: Mapping[str, Any]) -> set[int]:
    """Return the places of the trials that keep their details: baselines and front first, then the newest."""
    places = range(len(data["trials"]))
    trials = data["trials"]
    order = sorted(
        places, key=lambda place: (not (trials[place]["front"] or trials[place]["origin"] == "baseline"), -place)
    )
    return set(order[:DETAILED])


def _without_details(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, **dict.fromkeys(DETAILS)}


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a column for each key of mappings, in the order of the fullest mapping, such as all stages of a trial."""
    names = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)
    return {name: _column([row.get(name) for row in rows]) for name in names}


def _column(values: Sequence[Any]) -> dict[str, Any]:
    """Return values as ``{"v": numbers}``, or as ``{"d": distinct values, "i": their places}`` with -1 for null."""
    known = [value for value in values if value is not None]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    values = [_rounded(value) for value in values] if numeric else values
    if numeric and len(set(values)) > SHORT:
        return {"v": values}
    places: dict[str, int] = {}
    distinct, indices = list[Any](), list[int]()
    for value in values:
        key = json.dumps(value)
        if value is not None and key not in places:
            places[key] = len(distinct)
            distinct.append(value)
        indices.append(-1 if value is None else places[key])
    return {"d": distinct, "i": indices}


def _rounded(value: float | None) -> float | None:
    """Return a number with as many digits as the page needs; whole numbers stay exact."""
    if value is None or value == int(value):
        return value if value is None else int(value)
    return float(f"{value:.{DIGITS}g}")


def _steps(series: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Return [trials so far, seconds, hypervolume] wherever a series grows, and at its end."""
    steps, last = list[list[float]](), None
    for place, point in enumerate(series):
        if point["hypervolume"] != last or place == len(series) - 1:
            steps.append([place + 1, round(point["seconds"], 1), float(f"{point['hypervolume']:.{DIGITS + 1}g}")])
            last = point["hypervolume"]
    return steps
