"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from paretune.config.output_folder import DEFAULT
from paretune.core.errors import UserError
from paretune.results.folder_claims import claimed

INCOMPLETE = 1
"""Exit code if only a part of the results is available."""
NOTHING = 2
"""Exit code if no result is available, and for mistakes of the user."""
INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""


class Parser(argparse.ArgumentParser):
    """A parser whose verbs take options also between their arguments: ``show SWEEP --runs FOLDER 4``."""

    _mixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read arguments and options in any order, except where a verb follows."""
        followed = any(isinstance(action, argparse._SubParsersAction) for action in self._actions)  # noqa: SLF001
        if followed or self._mixed:  # the second is Python 3.11, where the call below comes back to here
            return super().parse_known_args(args, namespace)
        self._mixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixed = False


def doing(words: Sequence[str], given: argparse.Namespace) -> str:
    """Return a command's verb and the name of its subject."""
    verb = list(words[: 2 if words[0] in ("cluster", "data", "mlflow", "store") else 1])
    values = [getattr(given, field, None) for field in ("name", "sweep", "job", "artefact", "artefacts", "source")]
    if (about := next((value for value in values if value), None)) is not None:
        first = about[0] if isinstance(about, list) else about
        verb.append(first.stem if isinstance(first, Path) and first.suffix == ".yaml" else str(first))
    return " ".join(verb)


def claiming_out(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return a verb that reserves the folder ``--out`` before it runs, which may take hours."""

    def alone(given: argparse.Namespace) -> int:
        with claimed(given.out):
            return run(given)

    return alone


def job_arguments(parser: argparse.ArgumentParser, what: str = "sweep", *, trials: bool = True) -> None:
    """Add arguments for a job's file, the name of the result, and changes of fields."""
    parser.add_argument("job", type=Path, metavar="JOB.yaml")
    parser.add_argument("--name", help=f"of the {what} (default: the job's file name)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help="change one field of the job")
    if trials:
        parser.add_argument("--trials", type=int, metavar="N", help="the same as --set search.trials=N")


def sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of a sweep and its output folder."""
    parser.add_argument("sweep", metavar="SWEEP")
    runs_argument(parser)


def runs_argument(parser: argparse.ArgumentParser) -> None:
    """Add the output folder."""
    text = f"output folder (default: {DEFAULT})"
    parser.add_argument("--runs", type=Path, default=Path(DEFAULT), metavar="FOLDER", help=text)


def json_argument(parser: argparse.ArgumentParser, text: str = "one JSON object") -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help=text)


def answering(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return a verb that, with ``--json``, prints on stderr, except the object that it passes to ``given.answer``.

    Without ``--json``, ``given.answer`` prints nothing.
    """

    def told(given: argparse.Namespace) -> int:
        given.answer = lambda _: None
        if not given.json:
            return run(given)
        stdout = sys.stdout
        given.answer = lambda tree: print(json.dumps(tree, indent=1), file=stdout, flush=True)
        with redirect_stdout(sys.stderr):
            return run(given)

    return told


def overrides(given: argparse.Namespace) -> dict[str, Any]:
    """Read ``--set a.b=value`` as YAML reads values.

    Raises:
        UserError: not of that form.
    """
    from paretune.core.yaml_document import read_value

    values: dict[str, Any] = {}
    for text in given.set:
        place, equals, value = text.partition("=")
        if not equals or not all(place.split(".")):
            raise UserError(f"--set {text}: expected a.b=value, such as --set training.epochs=40")
        values[place] = read_value(value, f"--set {place}")
    if given.trials is not None:
        values["search.trials"] = given.trials
    return values


def first_argument(parser: argparse.ArgumentParser) -> None:
    """Add recipes that a sweep tries first."""
    text = "recipes to try right after the baselines, before the job's own `search.first`: files, or a folder that "
    text += "`paretune advise` wrote, whose predictions are held to what is measured"
    parser.add_argument("--first", nargs="+", type=Path, default=[], metavar="RECIPE", help=text)


def progress(done: int, of: int) -> None:
    """Overwrite one line of the terminal with the number of images done; print nothing to a file."""
    if sys.stderr.isatty() and (done % 16 == 0 or done == of):
        print(f"\r{done}/{of} images", end="\n" if done == of else "", file=sys.stderr, flush=True)


def images_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Add arguments for images, in place of those that an artefact was made with."""
    parser.add_argument("--data", type=Path, metavar="JOB.yaml|FOLDER", help=f"images to {what}")
    parser.add_argument("--from", dest="format", metavar="FORMAT", help="of that folder (default: by its layout)")


def _device(word: str) -> str:
    """Return the name of a device that a runtime declares.

    Raises:
        argparse.ArgumentTypeError: no runtime here runs on it.
    """
    from paretune.core.target import known_devices

    if word not in (known := known_devices()):
        raise argparse.ArgumentTypeError(f"no runtime here runs on {word!r}; known: {', '.join(known)}")
    return word


def target_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the device that an artefact runs on."""
    around = "default: as the artefact's runtime needs, and the sweep or training around says, else"
    words = f"cpu, cuda, or a device of an installed runtime ({around} cpu)"
    parser.add_argument("--device", type=_device, metavar="DEVICE", help=words)
    parser.add_argument("--threads", type=int, metavar="N", help=f"of the network on a CPU ({around} 1)")
