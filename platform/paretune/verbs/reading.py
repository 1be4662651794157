"""``check`` and ``plugins``: what can be known without running anything."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    check = verbs.add_parser("check", help="find every mistake in job and search-space files without running them")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE")
    check.set_defaults(run=_check)
    plugins = verbs.add_parser("plugins", help="list detectors, datasets, steps, runtimes, samplers and their fields")
    plugins.add_argument("kind", nargs="?", metavar="KIND", help="one table only")
    plugins.add_argument("--json", action="store_true", help="one JSON object")
    plugins.set_defaults(run=_plugins)


def _check(given: argparse.Namespace) -> int:
    from paretune.check import check_files

    print(check_files(given.files))
    return 0


def _plugins(given: argparse.Namespace) -> int:
    from paretune.check import plugin_tables, plugin_text

    tables = plugin_tables(given.kind)
    if given.json:
        import json

        print(json.dumps(tables, indent=1))
    else:
        print(plugin_text(tables))
    return 0
