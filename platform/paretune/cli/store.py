"""``store``: the stored results of stages."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from paretune.cli.options import answering, json_argument, runs_argument

if TYPE_CHECKING:
    from paretune.storage.stage_store import StageStore


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    store = verbs.add_parser("store", help="list or remove stored results of steps, which sweeps share")
    actions = store.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="print what is stored, the least recently used first")
    _place(listing)
    json_argument(listing)
    listing.set_defaults(run=_list)
    prune = actions.add_parser("prune", help="remove what was not used for longest")
    _place(prune)
    prune.add_argument("--max-gib", type=float, required=True, metavar="N", help="size that may stay; 0 removes all")
    json_argument(prune)
    prune.set_defaults(run=answering(_prune))


def _place(parser: argparse.ArgumentParser) -> None:
    runs_argument(parser)
    parser.add_argument(
        "--url", help="the store, where a job names one in store.url (default: that of the output folder)"
    )


def _list(given: argparse.Namespace) -> int:
    from paretune.reports.store_table import store_json, store_text

    store = _store(given)
    print(json.dumps(store_json(store)) if given.json else store_text(store))
    return 0


def _prune(given: argparse.Namespace) -> int:
    from paretune.core.errors import UserError
    from paretune.reports.store_table import size_text

    if not given.max_gib >= 0:
        raise UserError(f"--max-gib {given.max_gib:g}: expected 0 or more")
    store = _store(given)
    removed = store.prune(int(given.max_gib * 2**30))
    left = store.entries()
    print(f"removed {size_text(removed)}; {size_text(left)} stay in {store.shown}")
    sizes = {"removed": removed, "left": left}
    told = {
        name: {"results": len(stages), "bytes": sum(stage.bytes for stage in stages)} for name, stages in sizes.items()
    }
    given.answer({"store": store.shown, **told})
    return 0


def _store(given: argparse.Namespace) -> StageStore:
    import sys

    from paretune.config.output_folder import store_url
    from paretune.storage.stage_store import StageStore

    return StageStore(store_url(given.runs, given.url), warn=lambda line: print(line, file=sys.stderr))
