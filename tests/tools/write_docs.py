"""Writes the tables of verbs, fields, plug-ins and metrics into the Markdown files, between markers: ``make docs``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; ``NAME`` is a row of ``TABLES``.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from paretune.workflows.check import TABLES as PLUGINS
from paretune.workflows.check import fields_of, plugin_tables

ROOT = Path(__file__).parents[2]
FILES = (
    "README.md",
    "jobs/README.md",
    "platform/reference.md",
    "platform/guides/compression.md",
    "platform/guides/data.md",
    "platform/guides/python.md",
    "platform/guides/training.md",
)
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHARED_BY = 3
"""Fields that so many plug-ins of a kind have alike are listed once."""


def cell(value: Any) -> str:
    """Return text that is safe in a cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def kind_of(field: Mapping[str, Any]) -> str:
    """Return the type of a field and its limits."""
    return cell(field["type"].replace(" | null", "").replace(" | ", ", "))


def default_of(field: Mapping[str, Any]) -> str:
    """Return the default of a field as YAML writes it."""
    if field["required"]:
        return "required"
    value = field["default"]
    if value in (None, [], {}, ()):
        return "none"
    if field["type"] == "fields":  # a record, whose own fields follow
        return "see below"
    if isinstance(value, Mapping):
        tree = yaml.safe_dump(value, default_flow_style=True, sort_keys=False)
        return f"`{cell(tree if field['type'] == 'object' else next(iter(value)))}`"
    return f"`{cell(json.dumps(value).strip(chr(34)))}`"


def field_rows(fields: Mapping[str, Any]) -> list[list[str]]:
    """Return one row of a table for each field."""
    return [[f"`{name}`", kind_of(row), default_of(row), cell(row["about"])] for name, row in fields.items()]


def field_table(fields: Mapping[str, Any]) -> str:
    """Return a table of fields."""
    return table(["field", "type", "default", "meaning"], field_rows(fields))


def plain(value: Any) -> Any:
    """Return data as JSON has it."""
    return json.loads(json.dumps(value, default=lambda one: one.tree() if hasattr(one, "tree") else str(one)))


def plugins(kind: str) -> str:
    """Return the plug-ins of a kind: a table of all, then the fields of each."""
    rows = plain(plugin_tables(kind)[kind])
    text = table([kind, "what it is"], [[f"`{name}`", cell(row["about"])] for name, row in rows.items()])
    users: dict[str, list[str]] = {}
    for name, row in rows.items():
        for field, values in row["fields"].items():
            users.setdefault(json.dumps([field, values]), []).append(name)
    shared = {key: names for key, names in users.items() if len(names) >= SHARED_BY}
    groups: dict[str, dict[str, Any]] = {}
    for key, names in shared.items():
        field, values = json.loads(key)
        groups.setdefault(", ".join(f"`{name}`" for name in names), {})[field] = values
    for name, row in rows.items():
        own = {f: v for f, v in row["fields"].items() if json.dumps([f, v]) not in shared}
        if own:
            groups[f"`{name}`"] = own
    return text + "".join(f"\nFields of {names}:\n\n{field_table(fields)}" for names, fields in groups.items())


def names_of(kind: str) -> str:
    """Return the plug-ins of a kind, a line each."""
    return plugins(kind).partition("\nFields of")[0]


def job_fields(beginning: str = "") -> str:
    """Return the fields of a job, or those of one of its records; what lies deeper has a table of its own."""
    from paretune.config.job import Job

    fields = plain(fields_of(Job))
    for name, row in fields.items():
        row["about"] = row["about"] or f"One {name}: see the reference."
    deep = ("training.", "search.first.")
    chosen = {
        name.removeprefix(beginning): row
        for name, row in fields.items()
        if (name.startswith(beginning) if beginning else not name.startswith(deep))
    }
    return field_table(chosen)


def metrics() -> str:
    """Return the metrics that objectives and constraints may name."""
    from paretune.core import metrics as module

    if "metric" in plugin_tables():
        return names_of("metric")
    rows = module.NAMEABLE.items()
    better = {name: "lower" if name in module.COSTS else "higher" for name, _ in rows}
    return table(
        ["metric", "better when", "meaning"], [[f"`{name}`", better[name], cell(about)] for name, about in rows]
    )


def verbs() -> str:
    """Return the verbs of the command line, each with what it is for."""
    from paretune.cli.main import build_parser

    rows = []
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            rows += [[f"`{choice.dest}`", cell(choice.help)] for choice in action._choices_actions]
    return table(["command", "what it does"], rows)


def api() -> str:
    """Return the names of the Python API, each with what it is."""
    import paretune

    docs = {name: inspect.getdoc(getattr(paretune, name)) or "" for name in paretune.__all__}
    return table(["name", "what it is"], [[f"`{name}`", cell(doc.split("\n\n")[0])] for name, doc in docs.items()])


TABLES: dict[str, Callable[[], str]] = {
    "verbs": verbs,
    "api": api,
    "metrics": metrics,
    "job": job_fields,
    "training": lambda: job_fields("training."),
    **{f"{kind}s": lambda kind=kind: plugins(kind) for kind in PLUGINS},
    **{f"{kind}-names": lambda kind=kind: names_of(kind) for kind in ("detector", "dataset", "step", "runtime")},
}


def renewed(text: str) -> str:
    """Return a Markdown text whose tables are made from the code."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", text)


def main() -> int:
    """Write every table; return 1 with ``--check`` where one was not up to date."""
    stale = []
    for name in FILES:
        file = ROOT / name
        text = file.read_text()
        if (made := renewed(text)) != text:
            stale.append(name)
            if "--check" not in sys.argv:
                file.write_text(made)
    print(
        "\n".join(f"{name}: {'out of date' if '--check' in sys.argv else 'written'}" for name in stale) or "up to date"
    )
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
