"""``data``: what is done with datasets; each module adds its own subverbs with ``add(verbs)``."""

from __future__ import annotations

from typing import Any

from paretune.verbs import data_check


def add(verbs: Any) -> None:
    """Add the verb and its subverbs to the parser."""
    data = verbs.add_parser("data", help="check and download datasets")
    subverbs = data.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in (data_check,):
        module.add(subverbs)
