"""A job with its search space, read from files and checked without running anything."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from paretune.compression import STEPS
from paretune.config.job import UNCHOSEN, Job
from paretune.config.output_folder import SPACE_FILE
from paretune.config.recipe import Recipe
from paretune.core.errors import Problem, UserError, UserErrors
from paretune.core.secret_texts import holds_secret, is_secret_name
from paretune.core.spec import flat, older_names, record_at
from paretune.core.types import InputSize
from paretune.core.yaml_document import (
    Document,
    Place,
    noting_older_names,
    parse_yaml,
    problems_of,
    read_yaml,
    validate,
)
from paretune.runtimes import RUNTIMES
from paretune.search.space import Sample, Space
from paretune.search.space_reader import read_space
from paretune.training.initial_weights import unsupported_baseline_reason


@dataclass(frozen=True)
class Plan:
    """A checked job with its checked space."""

    job: Job
    space: Space
    space_text: str
    """Text of the space's file, which the sweep keeps."""


def read_plan(
    source: Path | Document, overrides: Mapping[str, Any] | None = None, *, here: bool = True, unnamed: bool = False
) -> Plan:
    """Read a job and its space, and check them without running anything.

    Args:
        source: the job's file, or a job that is no file; its field ``space`` may then hold the space itself.
        overrides: dotted place → value, set before the job is checked.
        here: whether it will run on this machine; for a cluster, folders must be absolute and are not looked up.
        unnamed: whether the dataset's folder may be left open.

    Raises:
        UserErrors: every mistake in both files at once.
        UserError: a file or the dataset's folder is missing.
    """
    document = overridden(read_yaml(source) if isinstance(source, Path) else source, overrides or {})
    document, inside = (document, None) if isinstance(source, Path) else _without_space(document)
    job = validate(Job, document)
    folders = _folder_problems(job, unnamed=unnamed) if here else _cluster_problems(job)
    problems = _secret_problems(document)
    problems += [Problem(document.file, document.line((field,)), f"{field}: {reason}") for field, reason in folders]
    space_path = Path(document.file).parent / job.space
    if inside is None and not space_path.is_file():
        line = document.line(("space",))
        problems.append(
            Problem(document.file, line, f"space: no such file: {space_path} (paths are relative to the job's file)")
        )
        raise UserErrors(problems)
    try:
        space = checked_space(read_yaml(space_path) if inside is None else parse_yaml(inside, "space"), job)
    except UserErrors as error:
        raise UserErrors([*problems, *error.problems]) from None
    if problems:
        raise UserErrors(problems)
    return Plan(job, space, space_path.read_text() if inside is None else inside)


def _without_space(document: Document) -> tuple[Document, str | None]:
    """Return a job that names its space by a file, and the text of a space that the job held itself."""
    if not isinstance(document.data, Mapping) or not isinstance(document.data.get("space"), Mapping):
        return document, None
    text = yaml.safe_dump(document.data["space"], sort_keys=False, allow_unicode=True)
    return replace(document, data={**document.data, "space": SPACE_FILE}), text


def _secret_problems(document: Document) -> list[Problem]:
    """Return a problem for each secret in a job, which its sweeps keep in their folders, logs and pages."""
    advice = "give it in an environment variable, as in https://$NAME:$PASSWORD@host"
    problems = []
    for field, value in flat(document.data).items():
        place = tuple(field.split("."))
        named = is_secret_name(place[-1]) and not str(value).startswith("$")
        if isinstance(value, str) and (named or holds_secret(value)):
            message = f"{field}: a secret does not belong into a job, which is copied and logged; {advice}"
            problems.append(Problem(document.file, document.line(place), message))
    return problems


def _folder_problems(job: Job, *, unnamed: bool) -> list[tuple[str, str]]:
    """Return (field, message) for each wrong folder of a job on this machine."""
    passed = unnamed and job.dataset.unnamed() is not None
    problems = [("dataset", reason) for reason in ([] if passed else job.dataset.problems())]
    if job.baseline is None:
        problems += [("detector", reason) for reason in job.detector.problems()]
    if job.baseline is not None and (reason := unsupported_baseline_reason(Path(job.baseline), job.detector)):
        problems.append(("baseline", reason))
    return problems


def _cluster_problems(job: Job) -> list[tuple[str, str]]:
    """Return (field, message) for each folder of a job that cannot be right on a cluster."""
    named = [("dataset", folder) for folder in job.dataset.folders()]
    if job.dataset.unnamed() is not None:
        named = []
    problems = [("dataset", reason) for reason in ([] if named else job.dataset.problems())]
    if job.baseline is not None:
        named.append(("baseline", job.baseline))
    for field, folder in named:
        # ~ and variables are filled in there, in a dataset's folder only
        if not folder.startswith("/" if field == "baseline" else ("/", "~", "$")):
            problems.append((field, f"{folder!r} is relative: give an absolute one that all nodes of the cluster see"))
    return problems


def checked_space(document: Document, job: Job | None = None, *, kept: bool = False) -> Space:
    """Read a space and check that every corner of it is a recipe that the job can carry out.

    Args:
        document: the space's file.
        job: that searches it; None checks the recipes alone.
        kept: whether it is the copy in a sweep's folder, whose first points are not checked again.

    Raises:
        UserErrors: every mistake, with its line.
    """
    document = replace(document, data=_in_pixels(document.data, job))
    space = read_space(document, kept=kept, renamed=_renamed_paths())
    problems: list[Problem] = []
    with older_names() if kept else noting_older_names(document.file):
        for sample in space.corners():
            problems += _sample_problems(sample, document, job)
    if problems:
        raise UserErrors(problems)
    return space


def _renamed_paths() -> dict[str, str]:
    """Return the last parts of parameters that were renamed: ``prune.of`` → ``prune.budget``."""
    paths: dict[str, str] = {}
    for table in (STEPS, RUNTIMES):
        for name in table.names:
            with suppress(UserError):  # its library is not installed
                renamed = getattr(table.load(name), "renamed", {})  # another package's row may be no Spec
                paths |= {f"{name}.{old}": f"{name}.{new}" for old, new in renamed.items()}
    return paths


def _in_pixels(written: Any, job: Job | None, *, sizes: bool = False) -> Any:
    """Return a space in which input sizes such as ``60%`` of the job's own are written in pixels."""
    if isinstance(written, Mapping):
        return {key: _in_pixels(value, job, sizes=sizes or key == "input_size") for key, value in written.items()}
    if isinstance(written, list):
        sizes_in_pixels = [_in_pixels(value, job, sizes=sizes) for value in written]
        # two shares of a small size may be the same pixels: one option then
        return list(dict.fromkeys(sizes_in_pixels)) if sizes and sizes_in_pixels != written else sizes_in_pixels
    share = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", str(written)) if sizes else None
    return written if share is None else str(_share_of(job, float(share[1]) / 100))


def _share_of(job: Job | None, share: float) -> InputSize:
    """Return the size nearest to a share of the job's size that the detector supports."""
    whole = UNCHOSEN if job is None else job.size
    if share == 1:
        return whole
    sized = whole
    for step in (16, 32, 64):
        sides = (max(step, round(side * share / step) * step) for side in (whole.width, whole.height))
        sized = InputSize(*sides)
        if job is None or job.detector.size_unsupported_reason(sized) is None:
            break
    return sized


def _sample_problems(sample: Sample, document: Document, job: Job | None) -> list[Problem]:
    at_sample = Document(document.file, sample.value, sample.lines)
    try:
        recipe = Recipe.model_validate(sample.value)
    except ValidationError as error:
        return problems_of(error, Recipe, at_sample)
    problem = job.recipe_unsupported_reason(recipe) if job else None
    if problem is None:
        return []
    place = (problem.partition(":")[0],)
    return [Problem(document.file, at_sample.line(place), problem)]


def overridden(document: Document, overrides: Mapping[str, Any]) -> Document:
    """Return a copy of a document with values set at dotted places of its data.

    Raises:
        UserError: a place leads through a value that has no fields.
    """
    if not isinstance(document.data, dict):
        return document
    data: dict[str, Any] = copy.deepcopy(document.data)
    lines: dict[Place, int] = dict(document.lines)
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        node = data
        for key in parents:
            child = node.get(key)
            if child is None:
                child = node[key] = {}
            elif isinstance(child, str):  # a plug-in written as `name`
                child = node[key] = {child: {}}
            if not isinstance(child, dict):
                raise UserError(f"--set {dotted}: {key!r} holds no fields")
            node = child
        for same in _names_of(parents, last):
            node.pop(same, None)
        node[last] = value
    return Document(document.file, data, lines)


def _names_of(parents: Sequence[str], field: str) -> list[str]:
    """Return the present and older names of a job's field; empty if it was never renamed."""
    try:
        record = record_at(Job, tuple(parents))
    except UserError:  # no such plug-in, which the job's own check will find
        record = None
    pairs = [] if record is None else record.renamed.items()
    return [name for old, new in pairs if field in (old, new) for name in (old, new)]
