"""``data``: verbs for datasets."""

from __future__ import annotations

from typing import Any

from paretune.cli import data_check, data_convert


def add(verbs: Any) -> None:
    """Add the verb and its subverbs to the parser."""
    data = verbs.add_parser("data", help="check, download, convert, split and annotate datasets")
    subverbs = data.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in (data_check, data_convert):
        module.add(subverbs)
