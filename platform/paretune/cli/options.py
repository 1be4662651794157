"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paretune.config.output_folder import DEFAULT
from paretune.core.errors import UserError
from paretune.results.folder_claims import claimed

INCOMPLETE = 1
"""Exit code where something that was asked for could not be had, and the rest is told."""
NOTHING = 2
"""Exit code where nothing that was asked for could be had, as for a mistake of the user's."""
INTERRUPTED = 130
"""Exit code of what Ctrl-C or SIGTERM stopped."""


def doing(words: Sequence[str], given: argparse.Namespace) -> str:
    """Return in a few words what a command does: its verb, and the name of what it is about."""
    said = list(words[: 2 if words[0] == "data" else 1])
    told = [getattr(given, field, None) for field in ("name", "sweep", "job", "artefact", "artefacts", "source")]
    if (about := next((value for value in told if value), None)) is not None:
        first = about[0] if isinstance(about, list) else about
        said.append(first.stem if isinstance(first, Path) and first.suffix == ".yaml" else str(first))
    return " ".join(said)


def claiming_out(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return a verb that refuses an ``--out`` that is there, or that another process is about to write, before it runs.

    What takes minutes to hours is then not found to have no place in the end.
    """

    def alone(given: argparse.Namespace) -> int:
        with claimed(given.out):
            return run(given)

    return alone


def job_arguments(parser: argparse.ArgumentParser, what: str = "sweep", *, trials: bool = True) -> None:
    """Add the job's file, the name of what is made of it, and what changes it."""
    parser.add_argument("job", type=Path, metavar="JOB.yaml")
    parser.add_argument("--name", help=f"of the {what} (default: the job's file name)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help="change one field of the job")
    if trials:
        parser.add_argument("--trials", type=int, metavar="N", help="the same as --set search.trials=N")


def sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of a sweep, and where it lies."""
    parser.add_argument("sweep", metavar="SWEEP")
    runs_argument(parser)


def runs_argument(parser: argparse.ArgumentParser) -> None:
    """Add the output folder."""
    text = f"output folder (default: {DEFAULT})"
    parser.add_argument("--runs", type=Path, default=Path(DEFAULT), metavar="FOLDER", help=text)


def overrides(given: argparse.Namespace) -> dict[str, Any]:
    """Read ``--set a.b=value`` as YAML reads values.

    Raises:
        UserError: not of that form.
    """
    from paretune.core.yaml_document import read_value

    found: dict[str, Any] = {}
    for text in given.set:
        place, equals, value = text.partition("=")
        if not equals or not all(place.split(".")):
            raise UserError(f"--set {text}: expected a.b=value, such as --set training.epochs=40")
        found[place] = read_value(value, f"--set {place}")
    if given.trials is not None:
        found["search.trials"] = given.trials
    return found


def first_argument(parser: argparse.ArgumentParser) -> None:
    """Add recipes that a sweep tries first."""
    text = "recipes to try right after the baselines, before the job's own `search.first`: files, or a folder that "
    text += "`paretune advise` wrote, whose predictions are held to what is measured"
    parser.add_argument("--first", nargs="+", type=Path, default=[], metavar="RECIPE", help=text)


def tried_first(given: argparse.Namespace) -> tuple[dict[str, Any], list[Any]]:
    """Return the changes to a sweep's job, ``--first`` among them, and what the advice beside its recipes promises.

    The recipes that the job itself tries first come after those of ``--first``.
    What the advice was for stands before its recipes: only against it can be seen what they gain.

    Raises:
        UserError: there is no such file, it is no YAML, a folder holds none, or advice that cannot be read.
    """
    from paretune.config.plan import overridden
    from paretune.config.recipe import Recipe
    from paretune.core.yaml_document import read_yaml, validate
    from paretune.results.advice_outcomes import read_promises

    changes = overrides(given)
    if not given.first:
        return changes, []
    files: list[Path] = []
    for place in given.first:
        inside = sorted(place.glob("*.yaml")) if place.is_dir() else [place]
        if not inside:
            raise UserError(f"--first {place}: holds no recipe (*.yaml)")
        files += inside
    recipes = [validate(Recipe, read_yaml(file)) for file in files]
    promises = read_promises(recipes, [file.parent for file in files])
    added = [*(promise.before for promise in promises), *(recipe.tree() for recipe in recipes)]
    job = overridden(read_yaml(given.job), changes).data
    search = job.get("search") if isinstance(job, dict) else None
    own = (search.get("first") if isinstance(search, dict) else None) or []
    changes["search.first"] = [*added, *(own if isinstance(own, list) else [own])]
    return changes, promises


def progress(done: int, of: int) -> None:
    """Overwrite one line of the terminal with the images done; silent where nobody looks."""
    if sys.stderr.isatty() and (done % 16 == 0 or done == of):
        print(f"\r{done}/{of} images", end="\n" if done == of else "", file=sys.stderr, flush=True)


def images_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the images that something is done with, in place of those an artefact was made with."""
    parser.add_argument("--data", type=Path, metavar="JOB.yaml|FOLDER", help=f"images to {what}")
    parser.add_argument("--from", dest="format", metavar="FORMAT", help="of that folder (default: by its layout)")


def named_images(given: argparse.Namespace) -> Any:
    """Return the dataset of ``images_arguments`` and the folder of what it generates; None where none is named.

    Raises:
        UserError: no job's file, and no folder of a known layout.
    """
    if given.data is None:
        return None
    from paretune.cli.data_convert import dataset_of

    return dataset_of(given.data, given.format)


def target_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the device that an artefact runs on."""
    around = "default: as the artefact's runtime needs, and the sweep or training around says, else"
    parser.add_argument("--device", choices=("cpu", "cuda"), help=f"to run on ({around} cpu)")
    parser.add_argument("--threads", type=int, metavar="N", help=f"of the network on a CPU ({around} 1)")


def checked_target(given: argparse.Namespace, folders: Sequence[Path]) -> Any:
    """Return the target of ``target_arguments``.

    What they leave out is as in the job of the sweep or training around, unless that is for another device than they
    name; where it is not the plain default, a line says so.

    Args:
        given: the arguments.
        folders: of the artefacts or networks that run on it.

    Raises:
        UserError: an impossible number of threads, or folders whose jobs differ in what the arguments leave out.
    """
    if given.threads is not None and not 1 <= given.threads <= 1024:
        raise UserError(f"--threads {given.threads}: expected 1 to 1024")
    from paretune.core.target import Target

    plain = Target(device=given.device or "cpu", threads=given.threads or 1)
    if given.device and given.threads:
        return plain
    around = {folder: target for folder in folders if (target := _made_for(folder)) is not None}
    found = {
        Target(device=target.device, threads=given.threads or target.threads): folder
        for folder, target in around.items()
        if given.device in (None, target.device)
    }
    if len(found) > 1:
        told = "; ".join(f"{folder} of {target}" for target, folder in found.items())
        raise UserError(f"the artefacts were made for several targets ({told}): name one with --device and --threads")
    target = next(iter(found), plain)
    if target != plain:
        told = "which the artefact was made for; --device and --threads name another"
        print(f"target: {target}, {told}", file=sys.stderr, flush=True)
    return target


def _made_for(folder: Path) -> Any:
    """Return the target of the job around an artefact or network, on the device that the artefact's runtime needs."""
    from paretune.core.target import Target
    from paretune.results.locate import target_around
    from paretune.runtimes.predictor import device_of
    from paretune.storage.artefact import MANIFEST

    target = target_around(folder)
    if not (folder / MANIFEST).is_file() or (needed := device_of(folder)) == "cpu":
        return target
    return Target(device=needed, threads=1 if target is None else target.threads)


def check_confidence(confidence: float | None, flag: str = "--confidence") -> None:
    """Refuse a confidence that is no share; None is one.

    Raises:
        UserError: says so.
    """
    if confidence is not None and not 0 <= confidence <= 1:
        raise UserError(f"{flag} {confidence}: expected 0 to 1")
