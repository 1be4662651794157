"""``check`` and ``plugins``, which run nothing."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paretune.cli.options import NOTHING, answering, json_argument
from paretune.core.errors import UserError, UserErrors


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    check = verbs.add_parser("check", help="find every mistake in job and search-space files without running them")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE")
    text = "change one field of the job that is checked"
    check.add_argument("--set", action="append", default=[], metavar="a.b=value", help=text)
    json_argument(check, "one JSON object: what is right, and every mistake with file and line")
    check.set_defaults(run=answering(_check), trials=None)
    plugins = verbs.add_parser(
        "plugins", help="list detectors, datasets, steps, runtimes, devices, samplers, schedulers and metrics"
    )
    plugins.add_argument("kind", nargs="?", metavar="KIND", help="one table only")
    plugins.add_argument("--json", action="store_true", help="one JSON object")
    plugins.set_defaults(run=_plugins)


def _check(given: argparse.Namespace) -> int:
    from paretune.api.running import check
    from paretune.cli.options import overrides

    if given.set and len(given.files) > 1:
        raise UserError("--set changes one job: check it alone")
    try:
        right = check(*given.files, set=overrides(given))
    except UserErrors as error:
        if not given.json:
            raise
        given.answer({"right": [], "problems": [asdict(problem) for problem in error.problems]})
        return NOTHING
    print("\n".join(right))
    given.answer({"right": right, "problems": []})
    return 0


def _plugins(given: argparse.Namespace) -> int:
    from paretune.workflows.check import plugin_tables, plugin_text

    tables = plugin_tables(given.kind)
    if given.json:
        import json

        print(json.dumps(tables, indent=1))
    else:
        print(plugin_text(tables))
    return 0
