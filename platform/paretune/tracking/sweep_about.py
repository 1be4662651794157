"""What the log of a sweep holds apart from its records: data, versions, machine, targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

CONTEXT = "mlflow.data.context"
"""Tag of an input: its part in the run."""
LONGEST_DIGEST = 36
"""Longest digest of a data set that MLflow takes, in characters."""


@dataclass(frozen=True)
class LoggedDataset:
    """The data of a sweep, as inputs of its runs."""

    name: str
    """Kind of the data set, with the name of its folder if it has one."""
    digest: str
    """Hash of images and boxes."""
    splits: Mapping[str, Mapping[str, int]]
    """Split → what it holds, such as ``{"images": 400, "boxes": 2168}``."""

    def inputs(self) -> list[DatasetInput]:
        """Return an input for each split."""
        import json

        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"data": self.name})
        return [
            DatasetInput(
                Dataset(
                    f"{self.name}/{split}", self.digest[:LONGEST_DIGEST], "paretune", source, None, json.dumps(counts)
                ),
                [InputTag(CONTEXT, split)],
            )
            for split, counts in self.splits.items()
        ]


@dataclass(frozen=True)
class SweepAbout:
    """Facts of a sweep for its log."""

    targets: tuple[str, ...] = ()
    """Names of the targets."""
    dataset: LoggedDataset | None = None
    """Its data; None if they are not known yet."""
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Tags of every run: hash of the data, version of the code, machine, seed."""
