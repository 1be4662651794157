"""Texts of ``paretune check`` and ``paretune plugins``, without importing torch, Ray or MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from paretune.compression import STEPS
from paretune.config.job import Job
from paretune.config.plan import checked_space, read_plan
from paretune.config.recipe import Recipe
from paretune.core.devices import DEVICES
from paretune.core.errors import Problem, UserError, UserErrors, did_you_mean
from paretune.core.metrics import METRICS, OTHERS, metric_of
from paretune.core.registry import Registry
from paretune.core.spec import Spec, inside
from paretune.core.yaml_document import Document, read_yaml
from paretune.data import DATASETS
from paretune.detectors import DETECTORS
from paretune.distributed.tune_schedulers import SCHEDULERS
from paretune.runtimes import RUNTIMES
from paretune.search.samplers import SAMPLERS
from paretune.workflows.machine_check import gpus_of_driver, sweep_problems

TABLES: dict[str, Registry[Any]] = {
    "dataset": DATASETS,
    "detector": DETECTORS,
    "step": STEPS,
    "runtime": RUNTIMES,
    "device": DEVICES,
    "sampler": SAMPLERS,
    "scheduler": SCHEDULERS,
}


def check_files(files: Sequence[Path | Document], overrides: Mapping[str, Any] | None = None) -> str:
    """Check job and search-space files.

    Args:
        files: jobs and search spaces, as files or as data.
        overrides: dotted place → value, set in each job before the check.

    Returns:
        A line for each file without mistakes.

    Raises:
        UserErrors: every mistake of every file.
    """
    lines: list[str] = []
    problems: list[Problem] = []
    for file in files:
        try:
            lines.append(_check_file(file, overrides or {}))
        except UserErrors as error:
            problems += error.problems
        except UserError as error:
            name = str(file) if isinstance(file, Path) else file.file
            problems.append(Problem(name, 1, str(error).removeprefix(f"{name}: ")))
    if problems:
        raise UserErrors(problems)
    return "\n".join(lines)


def _check_file(source: Path | Document, overrides: Mapping[str, Any]) -> str:
    document = read_yaml(source) if isinstance(source, Path) else source
    file = document.file
    fields = set(document.data) if isinstance(document.data, Mapping) else set()
    as_job, as_space = fields & set(Job.model_fields), fields & {*Recipe.model_fields, "first"}
    if not as_job and not as_space:
        expected = "a job (dataset, detector, space, …) or a search space (input_size, steps, runtime) is expected"
        raise UserErrors([Problem(file, 1, expected)])
    if len(as_job - {"input_size"}) >= len(as_space - {"input_size"}):
        plan = read_plan(source, overrides, unnamed=True)
        problems = sweep_problems(plan.job, gpus_of_driver)  # noted only: it may be meant for another machine
        here = f"; not on this machine: {'; '.join(problems)}" if problems else ""
        dataset = plan.job.dataset
        unnamed = (
            f"; its data was not looked at: name it by --set dataset.{dataset.name}.{field}=FOLDER"
            if (field := dataset.unnamed())
            else ""
        )
        return f"{file}: a job, right; its space has {len(plan.space.parameters)} parameters{here}{unnamed}"
    space = checked_space(document)
    corners = sum(1 for _ in space.corners())
    return f"{file}: a search space, right; {len(space.parameters)} parameters, {corners} corners checked"


def plugin_tables(kind: str | None = None) -> dict[str, Any]:
    """Return every table: kind → name → ``{"about", "fields": {field: {"type", "default", "about"}}}``.

    Raises:
        UserError: there is no table of that kind.
    """
    kinds = [*TABLES, OTHERS.kind]
    if kind is not None and kind.removesuffix("s") not in kinds:
        raise UserError(f"unknown kind {kind!r}{did_you_mean(kind, kinds)}; known: {', '.join(kinds)}")
    asked = [kind.removesuffix("s")] if kind else kinds
    return {
        k: _metrics() if k == OTHERS.kind else {name: _row(TABLES[k], name) for name in TABLES[k].names} for k in asked
    }


def _metrics() -> dict[str, Any]:
    """Return the table of metrics: name → what it measures, its unit and direction; it has no fields."""
    rows: dict[str, Any] = {}
    for name in [*METRICS, *OTHERS.names]:
        try:
            row = metric_of(name)
            about = f"{row.about} ({', '.join(filter(None, [row.unit, row.direction]))})"
        except ValueError as error:  # a row of another package that cannot be loaded
            about = str(error)
        rows[name] = {"about": about, "fields": {}}
    return rows


def _row(table: Registry[Any], name: str) -> dict[str, Any]:
    try:
        cls = table.load(name)
    except UserError as error:  # a library that is not installed
        return {"about": str(error), "fields": {}}
    return {"about": " ".join(_first_paragraph(cls).split()), "fields": fields_of(cls)}


def _first_paragraph(cls: type | None) -> str:
    """Return the first paragraph of a class's docstring."""
    return ((cls and cls.__doc__) or "").split("\n\n")[0]


def fields_of(cls: type[Spec], prefix: str = "") -> dict[str, Any]:
    """Return the fields of a record and, by dotted names, those of the records in it."""
    schema = cls.model_json_schema()["properties"] if cls.model_fields else {}
    fields: dict[str, Any] = {}
    for field, info in cls.model_fields.items():
        required = info.default is PydanticUndefined and info.default_factory is None
        record, _ = inside(cls, field)
        default = None if required else info.get_default(call_default_factory=True)
        fields[prefix + field] = {
            "type": _type_of(schema[field]),
            "required": required,
            "default": (default.named() if default.name else default.tree()) if isinstance(default, Spec) else default,
            "about": " ".join((info.description or _first_paragraph(record)).split()),
        }
        if record is not None:
            fields |= fields_of(record, f"{prefix}{field}.")
    return fields


def _type_of(schema: Mapping[str, Any]) -> str:
    """Return a field's type and limits as text."""
    if "$ref" in schema:
        return "fields"
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " | ".join(_type_of(option) for option in schema["anyOf"])
    limits = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    words = [f"{sign} {schema[key]}" for key, sign in limits.items() if key in schema]
    return " ".join([str(schema.get("type", "any")), ", ".join(words)]).strip()


def plugin_text(tables: Mapping[str, Any]) -> str:
    """Return tables as text."""
    lines: list[str] = []
    for kind, rows in tables.items():
        lines.append(f"{kind}s")
        for name, row in rows.items():
            lines.append(f"  {name}: {row['about']}")
            for field, facts in row["fields"].items():
                default = "required" if facts["required"] else f"default {facts['default']}"
                lines.append(f"      {field} ({facts['type']}; {default}): {facts['about']}")
        lines.append("")
    return "\n".join(lines).rstrip()
