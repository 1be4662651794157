"""``list``, ``show`` and ``compare``: sweeps and trials on disk."""

from __future__ import annotations

import argparse
import json
from typing import Any

from paretune.cli.options import json_argument, runs_argument, sweep_arguments
from paretune.cli.remote import address_argument, answered_there
from paretune.core.errors import UserError


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    listing = verbs.add_parser(
        "list", help="list the sweeps of an output folder, newest first: state, trials, front, best"
    )
    runs_argument(listing)
    address_argument(listing)
    json_argument(listing)
    listing.set_defaults(run=answered_there(_list))
    show = verbs.add_parser("show", help="print one trial whole: recipe, stages, metrics, classes, machine, failure")
    sweep_arguments(show)
    text = "number of the trial (default: the one that `front` recommends)"
    show.add_argument("trial", nargs="?", type=int, metavar="TRIAL", help=text)
    _target(show)
    address_argument(show)
    json_argument(show)
    show.set_defaults(run=answered_there(_show))
    text = "compare two trials: recipes, stages, metrics, which is faster and more accurate, and whether that is sure"
    compare = verbs.add_parser("compare", help=text)
    text = "a sweep and the numbers of two of its trials, or SWEEP/NUMBER twice"
    compare.add_argument("sweep", metavar="SWEEP|SWEEP/A", help=text)
    compare.add_argument("one", metavar="A|SWEEP/B")
    compare.add_argument("other", nargs="?", metavar="B")
    runs_argument(compare)
    _target(compare)
    address_argument(compare)
    json_argument(compare)
    compare.set_defaults(run=answered_there(_compare))


def _target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", metavar="T", help="the target (default: the job's first)")


def _list(given: argparse.Namespace) -> int:
    from paretune.results.sweep_list import list_sweeps, list_text, list_tree

    found = list_sweeps(given.runs)
    print(json.dumps(list_tree(given.runs, found), indent=1) if given.json else list_text(given.runs, found))
    return 0


def _show(given: argparse.Namespace) -> int:
    from paretune.results.trial_details import trial_text

    trial = _found(given, given.sweep, given.trial)
    print(json.dumps(trial.tree(), indent=1) if given.json else trial_text(trial))
    return 0


def _compare(given: argparse.Namespace) -> int:
    from paretune.results.trial_comparison import compare_text, compare_tree

    first, second = _two([word for word in (given.sweep, given.one, given.other) if word is not None])
    tree = compare_tree(_found(given, *first), _found(given, *second))
    print(json.dumps(tree, indent=1) if given.json else compare_text(tree))
    return 0


def _two(words: list[str]) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return sweep and number of both trials.

    Raises:
        UserError: the words are neither ``SWEEP A B`` nor ``SWEEP/A SWEEP/B``, or name one trial twice.
    """
    texts = [f"{words[0]}/{number}" for number in words[1:]] if len(words) == 3 else words
    named = [text.rpartition("/") for text in texts]
    if len(named) != 2 or not all(sweep and "/" not in sweep and number.isdecimal() for sweep, _, number in named):
        raise UserError(f"compare {' '.join(words)}: expected SWEEP A B or SWEEP/A SWEEP/B, such as demo 4 8")
    first, second = ((sweep, int(number)) for sweep, _, number in named)
    if first == second:
        raise UserError(f"compare {' '.join(words)}: two trials are compared, and this is one")
    return first, second


def _found(given: argparse.Namespace, sweep: str, number: int | None) -> Any:
    """Return a trial as ``--target`` has it."""
    from paretune.results.sweep_folder import find_sweep
    from paretune.results.trial_details import find_trial

    return find_trial(find_sweep(given.runs, sweep).on(given.target), number)
