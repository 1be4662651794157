"""Turns what the functions of the API are given into objects: jobs, datasets, targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

from paretune.config.output_folder import DEFAULT, dataset_cache, expanded
from paretune.core.errors import UserError
from paretune.core.startup import missing_package

if TYPE_CHECKING:
    from paretune.config.job import Job
    from paretune.config.plan import Plan
    from paretune.core.registry import Registry
    from paretune.core.target import Target
    from paretune.core.yaml_document import Document
    from paretune.data.base import Dataset
    from paretune.training.history import TrainingStep
    from paretune.training.settings import Training

P = ParamSpec("P")
R = TypeVar("R")
Tell: TypeAlias = Callable[[str], None]
OnStep: TypeAlias = "Callable[[TrainingStep], None]"
"""Function that is called after each step of a training."""
JobSource: TypeAlias = "str | Path | Mapping[str, Any] | Job"
"""A job: its file, its fields as plain data (``space`` may then hold the space itself), or a `Job`."""
DataSource: TypeAlias = "str | Path | Mapping[str, Any] | Dataset"
"""Images: the file of a job, a folder, a dataset as a job writes it (``{"voc": {"root": …}}``), or a `Dataset`."""
_DESCRIBES = frozenset({"names", "nc", "train", "val"})
"""Fields of YOLO's description of a dataset, none of which a job has."""


def missing_as_user_error(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that raises a UserError with the name of a package that it lacks."""

    @wraps(function)
    def explained(*given: P.args, **named: P.kwargs) -> R:
        try:
            return function(*given, **named)
        except ModuleNotFoundError as error:
            raise UserError(missing_package(error)) from error

    return explained


def told(progress: bool, tell: Tell | None) -> Tell:
    """Return the function that gets lines of progress: ``tell``, or ``print`` if ``progress`` is true, or none."""
    return tell or (_print if progress else lambda _: None)


def _print(line: str) -> None:
    print(line, flush=True)


def written(tree: Mapping[str, Any], name: str) -> Document:
    """Return plain data as a YAML document.

    Raises:
        UserError: a value is no plain data.
    """
    import yaml

    from paretune.core.yaml_document import parse_yaml

    try:
        return parse_yaml(yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True), name)
    except yaml.representer.RepresenterError as error:
        raise UserError(f"{name}: holds a value that YAML cannot: {error}") from error


def job_document(job: JobSource) -> Path | Document:
    """Return a job as the file or the document that the readers of jobs take."""
    if isinstance(job, (str, Path)):
        return Path(job)
    return written(job if isinstance(job, Mapping) else job.tree(), "job")


def plan_of(job: JobSource, changes: Mapping[str, Any] | None = None) -> Plan:
    """Return a checked job with its search space.

    Args:
        job: the job; the path of a space is relative to a job's file, or else to the working directory.
        changes: dotted place → value, as ``--set`` has them.

    Raises:
        UserErrors: every mistake in job and space.
    """
    from paretune.config.plan import read_plan

    return read_plan(job_document(job), changes)


def name_of(job: JobSource, name: str | None) -> str:
    """Return the name of a new result: the given one, or that of the job's file.

    Raises:
        UserError: there is neither.
    """
    if name is None and isinstance(job, (str, Path)):
        return Path(job).stem
    if name is None:
        raise UserError("name: expected, because the job is no file whose name could be taken")
    return name


def target_of(folders: Sequence[Path], device: str | None, threads: int | None, tell: Tell = lambda _: None) -> Target:
    """Return the target that artefacts or networks run on.

    Defaults come from the sweep or training around them, unless that is for another device.

    Args:
        folders: of the artefacts or networks.
        device: its name; None takes the default.
        threads: of the network on a CPU; None takes the default.
        tell: called with a line if the default is not one CPU thread.

    Raises:
        UserError: no such device, a number of threads out of range, or several targets around the folders.
    """
    if threads is not None and not 1 <= threads <= 1024:
        raise UserError(f"--threads {threads}: expected 1 to 1024")
    from paretune.core.target import Target, known_devices

    if device is not None and device not in (known := known_devices()):
        raise UserError(f"no runtime here runs on {device!r}; known: {', '.join(known)}")
    plain = Target(device=device or "cpu", threads=threads or 1)
    if device and threads:
        return plain
    around = {folder: target for folder in folders if (target := _made_for(folder)) is not None}
    targets = {
        Target(device=target.device, threads=threads or target.threads): folder
        for folder, target in around.items()
        if device in (None, target.device)
    }
    if len(targets) > 1:
        words = "; ".join(f"{folder} of {target}" for target, folder in targets.items())
        raise UserError(f"the artefacts were made for several targets ({words}): name one with --device and --threads")
    target = next(iter(targets), plain)
    if target != plain:
        tell(f"target: {target}, which the artefact was made for; --device and --threads name another")
    return target


def _made_for(folder: Path) -> Target | None:
    """Return the target of the job around an artefact or network, on the device that its runtime needs."""
    from paretune.core.target import Target
    from paretune.results.locate import target_around
    from paretune.runtimes.predictor import device_of
    from paretune.storage.artefact import MANIFEST

    target = target_around(folder)
    if not (folder / MANIFEST).is_file() or (needed := device_of(folder)) == "cpu":
        return target
    return Target(device=needed, threads=1 if target is None else target.threads)


def images_named(data: DataSource | None, form: str | None = None) -> tuple[Dataset, Path] | None:
    """Return a dataset and its cache; None if none is named.

    Args:
        data: the images.
        form: format of a folder; None recognises it by its layout.

    Raises:
        UserError: it is neither a job's file nor a folder of a known layout.
    """
    if data is None:
        return None
    if isinstance(data, (str, Path)):
        return dataset_of(Path(data), form)
    if isinstance(data, Mapping):
        from paretune.data import DATASETS

        return plugin_of(data, DATASETS), dataset_cache(Path(DEFAULT))
    return data, dataset_cache(Path(DEFAULT))


def plugin_of(value: Any, table: Registry[Any]) -> Any:
    """Return a plug-in, given as ``name``, ``{name: fields}`` or itself.

    Raises:
        UserError: every mistake in its fields, or there is no such plug-in.
    """
    from paretune.core.errors import UserErrors
    from paretune.core.spec import parse_plugin
    from paretune.core.yaml_document import Document, validate

    if not isinstance(value, Mapping) or len(value) != 1:
        try:
            return parse_plugin(value, table)
        except ValueError as error:
            raise UserError(f"{table.kind}: {error}") from None
    ((name, fields),) = value.items()
    try:
        return validate(table.load(str(name)), Document(str(name), dict(fields or {}), {}))
    except UserErrors as error:
        raise UserError("\n".join(f"{name}: {problem.message}" for problem in error.problems)) from None


def dataset_of(source: Path, form: str | None) -> tuple[Any, Path]:
    """Return the dataset of a job's file, of a data.yaml, or in a folder, and its cache in the output folder.

    Raises:
        UserError: the file is neither a job nor YOLO's description of a dataset, or there is no such folder or layout.
    """
    from paretune.data import DATASETS

    if source.is_file():
        from paretune.config.job import Job
        from paretune.core.yaml_document import read_yaml, validate

        if source.suffix.lower() == ".json":
            raise UserError(f"{source}: a JSON file; name the folder in which it and its images lie")
        document = read_yaml(source)
        fields = set(document.data) if isinstance(document.data, Mapping) else set()
        if fields & _DESCRIBES and not fields & set(Job.model_fields):
            return DATASETS.load("yolo").model_validate({"root": str(source)}), dataset_cache(Path(DEFAULT))
        job = validate(Job, document)
        return job.dataset, dataset_cache(expanded(job.output))
    from paretune.data.formats.detect import format_of_folder

    row = DATASETS.load(format_of_folder(source, form))
    return row.model_validate({"root": str(source)}), dataset_cache(Path(DEFAULT))


def training_named(data: DataSource | None) -> Training | None:
    """Return the training of the job that names the images; None if no job names them.

    Raises:
        UserErrors: every mistake in the job.
    """
    if not isinstance(data, (str, Path)) or not Path(data).is_file():
        return None
    from paretune.config.job import Job
    from paretune.core.yaml_document import read_yaml, validate

    return validate(Job, read_yaml(Path(data))).training
