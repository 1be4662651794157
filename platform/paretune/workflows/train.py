"""One training without a sweep: from a job to a network, its curves and its accuracy."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from paretune.config.auto_training import as_begun, settled
from paretune.config.job import Job
from paretune.config.output_folder import JOB_FILE, SPACE_FILE, TRAININGS, checked_name, dataset_cache
from paretune.config.plan import Plan
from paretune.core.counts import counted
from paretune.core.errors import UserError
from paretune.core.spec import flat
from paretune.core.yaml_document import read_yaml, validate
from paretune.data.left_out import left_out_line, lines_of, refuse_gaps
from paretune.data.statistics import crowding_note
from paretune.distributed.run_training import train_order
from paretune.evaluation.learned import unlearned_reason
from paretune.reports.terminal import figures_line
from paretune.results.folder_claims import removed_if_failed
from paretune.results.sweep_folder import output_folder
from paretune.storage.atomic_files import new_folder, write_text
from paretune.system.file_lock import exclusive_file_lock
from paretune.training.history import HISTORY, TrainingStep, epochs_of, no_step, read_history, was_begun
from paretune.training.settings import ELSEWHERE
from paretune.training.training_job import TrainingJob
from paretune.training.worker import divergence_as_user_error

if TYPE_CHECKING:
    from paretune.core.types import Data

SHOWN = 8
"""Number of validation images in the picture of samples."""
NOT_THE_TRAINING = frozenset(
    {"space", "targets", "objectives", "constraints", "search", "measuring", "resources", "tracking", "output"}
)
"""Fields of a job that do not affect a training."""


@dataclass(frozen=True)
class TrainingPlace:
    """Folder of one training, ``trainings/NAME`` below the output folder."""

    runs: Path
    name: str

    @property
    def folder(self) -> Path:
        """Return the training's own folder."""
        return self.runs / TRAININGS / self.name

    def free_sweep_name(self) -> str:
        """Return the training's name, with a number if a sweep has that name."""
        names = itertools.chain([self.name], (f"{self.name}-{number}" for number in itertools.count(2)))
        return next(name for name in names if not (self.runs / name).exists())

    @property
    def cache(self) -> Path:
        """Return the folder of generated datasets, shared with all sweeps of the output folder."""
        return dataset_cache(self.runs)


def open_place(plan: Plan, name: str, *, resume: bool, test: bool = False) -> tuple[TrainingPlace, Job]:
    """Make the folder of a new training, whole or not at all, or find the one to resume.

    Returns:
        The place, and the job with the choices of `training: auto`, made now or when the training began.

    Raises:
        UserError: the name is taken, there is no training to resume, its settings differ, or the test split that is
            asked for does not exist.
    """
    place = TrainingPlace(output_folder(plan.job), checked_name(name, "training"))
    if plan.job.baseline is not None:
        raise UserError(f"baseline: the job names the trained network {plan.job.baseline}, so nothing is to be trained")
    if test and "test" not in (data := plan.job.dataset.open(place.cache)).splits:
        told = f"--test: the dataset has no test split, only {', '.join(data.splits)}"
        raise UserError("\n".join([told, *lines_of(data)]))
    if resume:
        return place, _begun(place, plan.job)
    if place.folder.exists():
        raise UserError(_taken(place))
    job, chosen = settled(plan.job)
    try:
        with new_folder(place.folder) as draft:
            tree = {**job.tree(), "space": SPACE_FILE}
            reasons = "".join(f"# {line}\n" for line in chosen)
            written = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
            (draft / JOB_FILE).write_text(reasons + written)
            (draft / SPACE_FILE).write_text(plan.space_text)
    except FileExistsError:
        raise UserError(_taken(place)) from None
    except OSError as error:
        raise UserError(f"output folder {place.runs} cannot be written: {error.strerror}") from error
    return place, job


def _taken(place: TrainingPlace) -> str:
    return f"{place.folder} exists already: --resume goes on with it, --name gives another name"


def _begun(place: TrainingPlace, job: Job) -> Job:
    """Return a job with the choices of the training that it resumes.

    Raises:
        UserError: there is no such training, or it began with other settings.
    """
    path = place.folder / JOB_FILE
    if not path.is_file():
        raise UserError(f"there is no training {place.folder} to resume")
    document = read_yaml(path)
    if isinstance(document.data, Mapping):
        kept = {key: value for key, value in document.data.items() if key not in NOT_THE_TRAINING}
        document = replace(document, data={**kept, "space": SPACE_FILE})
    stored = validate(Job, document)  # fields that came since have their defaults
    now = as_begun(job, stored)
    before, after = (_training_of(known.tree()) for known in (stored, now))
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if changed:
        raise UserError(f"{place.folder} was begun with another {', '.join(changed)}; --name begins a new training")
    return now


def _training_of(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a job that affect the trained network."""
    leaves = flat({key: value for key, value in tree.items() if key not in NOT_THE_TRAINING})
    own = {key: value for key, value in leaves.items() if key.removeprefix("training.") not in ELSEWHERE}
    return {key: value for key, value in own.items() if not key.endswith(".allow_missing")}  # asked at the beginning


def run_training(
    place: TrainingPlace,
    job: Job,
    *,
    test: bool = False,
    new: bool = False,
    on_step: Callable[[TrainingStep], None] = no_step,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train a job's detector, evaluate it, and write network, history and pictures.

    Args:
        place: from ``open_place``.
        job: from ``open_place``.
        test: whether to evaluate on the test split too.
        new: whether to remove the folder if a mistake ends the training before its first epoch.
        on_step: called after each step, or, of a training on Ray workers, after each epoch.
        progress: called with a line on the data, after each epoch, and on the result.

    Returns:
        The contents of ``training.json``.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; finished epochs are kept.
        UserError: another process runs it, the data lack a large part of themselves, the training diverged, or the
            cluster lacks the workers.
    """
    from paretune.distributed.ray_session import terminated_like_interrupted
    from paretune.tracking.mlflow_client import LogPlace
    from paretune.tracking.training_run import TrainingLog

    with (
        terminated_like_interrupted(),
        exclusive_file_lock(place.folder, f"training {place.name!r}"),
        removed_if_failed(place.folder, lambda: not new or was_begun(place.folder)),
    ):
        data = job.dataset.open(place.cache)
        if not was_begun(place.folder):
            refuse_gaps(data, job.dataset)
        for line in lines_of(data):
            progress(line)
        order = _order(place, job)
        where = LogPlace.of(place.runs, place.name, job.tracking.uri, job.tracking.experiment)
        begun = bool(epochs_of(order.work))
        params = {**flat(job.tree()), "left_out": left_out_line(data.left_out) or "nothing"}
        if job.tracking.trainings:
            progress(f"MLflow: {where.words}")
        log = TrainingLog(where if job.tracking.trainings else None, params, begun=begun)

        def tell(line: str) -> None:
            progress(line)
            log.epochs(epochs_of(order.work))

        progress(
            f"training {place.name}: {counted(job.training.epochs, 'epoch')} at {job.size}, "
            f"{counted(len(data.splits['train']), 'image')}"
        )
        if (crowded := crowding_note(data.splits, order.thresholds)) is not None:
            progress(crowded)
        with _ray(place, job), divergence_as_user_error(order):
            train_order(order, tell, on_step)
        facts = _evaluated(order, data, ("val", "test") if test else ("val",), progress)
        write_text(place.folder / HISTORY, json.dumps(facts, indent=1))
        _write_artefact(order, data)
        pictures = _pictures(order, data, facts)
        log.epochs(facts["epochs"])
        log.finish(flat(facts["metrics"]), [place.folder / HISTORY, *pictures])
        if (why := unlearned_reason(facts["metrics"].get("val", {}), job.max_drops)) is not None:
            print(f"the network {why}; train longer, or check the annotations with `data check`")
        return facts


def _order(place: TrainingPlace, job: Job) -> TrainingJob:
    kept = job.thresholds.thresholds
    return TrainingJob(job.detector, job.dataset, place.cache, job.size, job.training, place.folder, thresholds=kept)


@contextmanager
def _ray(place: TrainingPlace, job: Job) -> Iterator[None]:
    """Run the block in a Ray session if Ray Train trains."""
    if not job.training.by_ray:
        yield
        return
    from paretune.distributed.ray_session import session

    with session(place.runs):
        yield


def _evaluated(
    order: TrainingJob, data: Data, splits: tuple[str, ...], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Return the history with the network's accuracy on some splits."""
    from paretune.networks.network_files import load_network
    from paretune.system.device_lock import shared_device
    from paretune.training.loop import pick_device, threads_of
    from paretune.training.validation import validate

    device = pick_device(order.settings.device)
    network = load_network(order.detector, len(data.classes), order.folder).to(device)
    facts = read_history(order.folder)
    facts["metrics"], facts["reasons"] = {}, {}
    for name in splits:
        with shared_device(device), threads_of(order.settings, device):
            accuracy = validate(
                network, order.detector, data.splits[name], order.size, device=device, thresholds=order.thresholds
            )
        if accuracy is not None:
            facts["metrics"][name], facts["reasons"][name] = accuracy.metrics(), dict(accuracy.reasons)
            facts["metrics"][name]["images"] = accuracy.images
            progress(f"{name} ({counted(accuracy.images, 'image')}): {figures_line(accuracy.metrics())}")
    return facts


def _write_artefact(order: TrainingJob, data: Data) -> None:
    """Write the trained network as an artefact of runtime eager."""
    from paretune.config.recipe import Recipe
    from paretune.core.model import Model
    from paretune.networks.network_files import count, load_network
    from paretune.runtimes.artefact_writer import write_artefact

    network = load_network(order.detector, len(data.classes), order.folder)
    params, flops = count(network, order.size)
    notes = tuple(read_history(order.folder).get("notes", ()))
    recipe = Recipe.model_validate({"input_size": str(order.size), "runtime": "eager"})
    write_artefact(
        order.folder / "artefact",
        Model(network, None, order.size, notes=notes, params=params, flops=flops),
        detector=order.detector,
        runtime=recipe.runtime,
        recipe_tree=recipe.tree(),
        classes=data.classes,
        thresholds=order.thresholds,
        seed=order.settings.seed,
    )


def _pictures(order: TrainingJob, data: Data, facts: Mapping[str, Any]) -> list[Path]:
    """Draw the curves, and detections in the first validation images; return the files."""
    from paretune.networks.network_files import load_network
    from paretune.reports.training_plots import curves_png, samples_png
    from paretune.training.validation import detect

    files = [order.folder / "curves.png", order.folder / "samples.png"]
    curves_png(facts["epochs"], files[0])
    network, val = load_network(order.detector, len(data.classes), order.folder), data.splits["val"]
    shown = range(min(SHOWN, len(val)))
    found = detect(network, order.detector, val, order.size, shown, thresholds=order.thresholds)
    samples_png([val.image(i) for i in shown], [val.annotations(i) for i in shown], found, data.classes, files[1])
    return files
