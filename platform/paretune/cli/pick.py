"""``pick``: one point of a sweep's front as a bundle."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from paretune.cli.options import claiming_out, sweep_arguments
from paretune.cli.remote import address_argument, fetched_from_there


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    verb = verbs.add_parser(
        "pick",
        help="choose one point of a sweep's front by a rule, and write its artefact as a bundle",
        epilog="without a rule it takes the point that `front` recommends; "
        "exit code: 0 a bundle is written, 2 no point of the front keeps the rule",
    )
    sweep_arguments(verb)
    rule_arguments(verb)
    verb.add_argument("--target", metavar="T", help="the target (default: the job's first)")
    verb.add_argument("--out", type=Path, metavar="FOLDER", help="of the bundle (default: SWEEP/picked/RULE)")
    verb.add_argument("--json", action="store_true", help="one JSON object")
    address_argument(verb, "of a Ray cluster's head: choose there, and write the bundle here")
    verb.set_defaults(run=claiming_out(fetched_from_there(_pick)))


def rule_arguments(verb: argparse.ArgumentParser) -> Any:
    """Add the rules, of which one may be given, and return their group."""
    rules = verb.add_mutually_exclusive_group()
    rules.add_argument("--max-latency", metavar="T", help="the most accurate point within a latency, such as 10ms")
    text = "the fastest point that loses at most X against the eager baseline, such as 0.01"
    rules.add_argument("--max-drop", type=float, metavar="X", help=text)
    rules.add_argument("--min", metavar="METRIC=VALUE", help="the fastest point with at least that value")
    rules.add_argument("--knee", action="store_true", help="the point farthest above the line between the front's ends")
    return rules


def rule_fields(given: argparse.Namespace) -> dict[str, Any]:
    """Return the rule of the arguments, as `Front.pick` takes it."""
    return {"max_latency": given.max_latency, "max_drop": given.max_drop, "min": given.min, "knee": given.knee}


def _pick(given: argparse.Namespace) -> int:
    from paretune.api.front import Front

    bundle = Front(given.sweep, given.runs, target=given.target).pick(**rule_fields(given), out=given.out)
    if given.json:
        print(json.dumps({"folder": str(bundle.folder), **bundle.facts}))
    else:
        print(f"{bundle.text}\nbundle: {bundle.folder}")
        if reason := bundle.facts["loader_missing"]:
            print(f"without detect.py: {reason}")
    return 0
