"""``--address``: a verb that answers from a Ray cluster, whose folders this machine does not see."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from paretune.config.output_folder import DEFAULT
from paretune.core.errors import UserError

ADDRESS = "of a Ray cluster's head, such as http://HEAD:8265: answer from its folders"


def address_argument(parser: argparse.ArgumentParser, text: str = ADDRESS) -> None:
    """Add ``--address``."""
    parser.add_argument("--address", metavar="URL", help=text)


def answered_there(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return a verb that runs on the cluster's head, if ``--address`` names one."""

    def there(given: argparse.Namespace) -> int:
        if given.address is None:
            return run(given)
        from paretune.distributed.cluster_verbs import answer_from

        name, runs = getattr(given, "sweep", None), runs_of(given)
        if name is None and runs is None:
            raise UserError("--address: name the output folder on the cluster with --runs")
        sweep = None if name is None else str(name).partition("/")[0]
        answer = answer_from(given.address, without(given.words, "--address", "--runs"), sweep=sweep, runs=runs)
        print(answer.out, end="")
        print(answer.err, end="", file=sys.stderr)
        return answer.code

    return there


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
