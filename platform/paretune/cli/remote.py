"""``--address``: a verb that answers from a Ray cluster, whose folders this machine does not see."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.config.output_folder import DEFAULT
from paretune.core.errors import UserError

if TYPE_CHECKING:
    from paretune.distributed.job_environment import Carried
    from paretune.distributed.verb_answer import VerbAnswer

ADDRESS = "of a Ray cluster's head, such as http://HEAD:8265: answer from its folders"


def address_argument(parser: argparse.ArgumentParser, text: str = ADDRESS) -> None:
    """Add ``--address``."""
    parser.add_argument("--address", metavar="URL", help=text)


def carried_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a sweep takes along to a cluster."""
    text = "environment variable that the sweep needs there, such as MLFLOW_TRACKING_TOKEN; its value is not shown"
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help=text)
    text = "requirement that Ray installs for the sweep on each node, such as 'albumentations>=2'"
    parser.add_argument("--pip", action="append", default=[], metavar="REQUIREMENT", help=text)


def carried(given: argparse.Namespace) -> Carried:
    """Return what a sweep takes along to a cluster.

    Raises:
        UserError: a value is given, which would be seen in the list of processes.
    """
    from paretune.distributed.job_environment import Carried

    for name in given.env:
        if "=" in name:
            text = name.partition("=")[0]
            raise UserError(f"--env {text}=…: name the variable alone, and set it here first: --env {text}")
    return Carried(tuple(given.env), tuple(given.pip))


def answered_there(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return a verb that runs on the cluster's head, if ``--address`` names one."""

    def there(given: argparse.Namespace) -> int:
        if given.address is None:
            return run(given)
        answer = _answer(given)
        print(answer.out, end="")
        print(answer.err, end="", file=sys.stderr)
        return answer.code

    return there


def fetched_from_there(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return a verb that writes a folder ``--out``, and chooses its contents on the cluster if ``--address`` names one.

    The folder is then written here.
    """

    def there(given: argparse.Namespace) -> int:
        if given.address is None:
            return run(given)
        if given.out is None:
            raise UserError("--address: name a new folder of this machine with --out")
        if getattr(given, "archive", None):
            raise UserError("--archive: not with --address; export the folder, and pack it here")
        from paretune.distributed.verb_answer import MADE

        answer = _answer(given, given.out)
        place = json.dumps(str(given.out))[1:-1] if given.json else str(given.out)
        print(answer.out.replace(MADE, place), end="")
        print(answer.err.replace(MADE, str(given.out)), end="", file=sys.stderr)
        return answer.code

    return there


def _answer(given: argparse.Namespace, out: Path | None = None) -> VerbAnswer:
    """Return the answer of the cluster's head; its folder, if it writes one, is then here.

    Raises:
        UserError: neither the sweep nor ``--runs`` tells the output folder, or the cluster does not answer.
    """
    from paretune.distributed.cluster_verbs import answer_from

    name, runs = getattr(given, "sweep", None), runs_of(given)
    if name is None and runs is None:
        raise UserError("--address: name the output folder on the cluster with --runs")
    sweep = None if name is None else str(name).partition("/")[0]
    words = without(given.words, "--address", "--runs", *([] if out is None else ["--out"]))
    return answer_from(given.address, words, sweep=sweep, runs=runs, out=out)


def runs_of(given: argparse.Namespace) -> str | None:
    """Return the output folder on the cluster that was asked for; None if none was.

    Raises:
        UserError: it is relative.
    """
    if str(given.runs) == DEFAULT:
        return None
    if not given.runs.is_absolute():
        raise UserError(f"--runs {given.runs}: with --address it is a folder of the cluster: give an absolute one")
    return str(given.runs)


def without(words: Sequence[str], *options: str, flags: Sequence[str] = ()) -> list[str]:
    """Return the words of a command without some options and their values; flags have none."""
    kept, skip = list[str](), False
    for word in words:
        if skip:
            skip = False
            continue
        name, equals, _ = word.partition("=")
        found = next((option for option in options if len(name) > len("--") and option.startswith(name)), None)
        if found is not None:
            skip = not equals and found not in flags
            continue
        kept.append(word)
    return kept
