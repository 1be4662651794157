"""Accuracy of a recipe's result beside that of its source, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.counts import counted
from paretune.core.errors import UserError, one_line
from paretune.core.metrics import CHANGED, change_in
from paretune.core.types import LIMIT, Detections, Image, Split

if TYPE_CHECKING:
    from paretune.evaluation import Accuracy
    from paretune.evaluation.baseline_difference import AccuracyDifference

DECIDES = "val"
"""Split whose figures decide; those of ``test`` are printed too."""
SPLITS = (DECIDES, "test")
NOTHING = 5e-4
"""Map below which 0.000 is printed."""
MOST = 0.5
"""Share of the map whose loss makes a result unusable."""
NO_OBJECTS = "the images hold no objects to find"
Find = Callable[[Image], Detections]
"""Detector: image (H, W, 3) uint8 RGB → detections."""


@dataclass(frozen=True)
class SplitChange:
    """Accuracy before and after on one split."""

    images: int
    before: Accuracy
    after: Accuracy
    change: AccuracyDifference
    low: float
    """Low end of the 95 % interval of the map after, not below 0."""
    high: float
    """High end of the same interval."""
    boxes: int
    """Boxes found after, of any score."""

    @property
    def delta(self) -> tuple[float, float, float]:
        """Return (low, difference, high): the change of map with its 95 % interval."""
        ends = change_in(self.change.figures, "map")
        assert ends is not None  # noqa: S101 - ``_on`` makes none without
        return ends

    @property
    def unusable(self) -> str | None:
        """Return why the result is unusable; None if its map is above noise and most of it is left."""
        before, after = self.before.map or 0.0, self.after.map or 0.0
        had = f"it was {before:.3f}" if before >= NOTHING else "what it began with finds nothing either"
        if not self.boxes:
            return f"it finds nothing: no box in {self.images} images (map 0.000; {had})"
        if after < NOTHING:
            return f"it finds nothing: map {after:.3f} ({had})"
        if self.low <= 0:
            return f"its map is within noise of 0: {after:.3f} [0.000, {self.high:.3f}] ({had})"
        if after < (1 - MOST) * before:
            return f"it has lost {1 - after / before:.0%} of its map: {after:.3f} ({had})"
        return None

    def tree(self) -> dict[str, Any]:
        """Return the change as plain data."""
        return {
            "images": self.images,
            "before": self.before.metrics(),
            "after": {**self.after.metrics(), "map_low": self.low, "map_high": self.high},
            "change": dict(self.change.figures),
            "reasons": {"before": dict(self.before.reasons), "after": dict(self.after.reasons)},
        }


@dataclass(frozen=True)
class AccuracyChange:
    """Accuracy of a result beside that of a reference."""

    against: str
    """Name of the reference and its runtime."""
    splits: Mapping[str, SplitChange | str]
    """Split → change on it, or why it was not evaluated; the deciding split is the first."""

    @property
    def decisive(self) -> SplitChange | str:
        """Return the change on the deciding split, or why it was not evaluated."""
        return self.splits[DECIDES]

    @property
    def unknown(self) -> str | None:
        """Return why the accuracy is unknown; None if it is known."""
        return self.decisive if isinstance(self.decisive, str) else None

    @property
    def unusable(self) -> str | None:
        """Return why the result is unusable; None if it is usable or the accuracy is unknown."""
        return None if isinstance(self.decisive, str) else self.decisive.unusable

    def lines(self) -> list[str]:
        """Return lines for the terminal with the figures before and after and their change."""
        known = {name: found for name, found in self.splits.items() if isinstance(found, SplitChange)}
        told = [f"accuracy beside {self.against} (95 % intervals):"] if known else []
        for name, found in known.items():
            place = f"  {f'{name}, {found.images} images':<18}"
            for metric in CHANGED:
                told.append(f"{place} {metric:<5} {_words(found, metric)}")
                place = " " * len(place)
        unknown = {name: why for name, why in self.splits.items() if isinstance(why, str)}
        return [*told, *(f"accuracy on {name} was not evaluated: {why}" for name, why in unknown.items())]

    def tree(self) -> dict[str, Any]:
        """Return the changes as plain data; a split that was not evaluated is null, with the reason in ``unknown``."""
        return {
            "against": self.against,
            "unusable": self.unusable,
            "splits": {n: found.tree() if isinstance(found, SplitChange) else None for n, found in self.splits.items()},
            "unknown": {name: why for name, why in self.splits.items() if isinstance(why, str)},
        }


def _words(found: SplitChange, metric: str) -> str:
    before, after = getattr(found.before, metric), getattr(found.after, metric)
    ends = change_in(found.change.figures, metric)
    assert ends is not None  # noqa: S101 - known of all metrics or of none
    return f"{before:.3f} → {after:.3f}, {change_words(ends)}"


def change_words(ends: tuple[float, float, float]) -> str:
    """Return a change with its interval, given as (low, change, high)."""
    low, middle, high = ends
    return f"{middle:+.3f} [{low:+.3f}, {high:+.3f}]"


def map_change(found: SplitChange | str) -> dict[str, Any]:
    """Return the change of map as plain data, null with a reason if it is unknown."""
    if isinstance(found, str):
        return {"map_change": None, "map_change_unknown": found, "unusable": None}
    low, middle, high = found.delta
    told = {"split": DECIDES, "before": found.before.map, "after": found.after.map}
    ends = {"change": middle, "low": low, "high": high}
    return {"map_change": {**told, **ends}, "map_change_unknown": None, "unusable": found.unusable}


def map_words(found: SplitChange | str) -> str:
    """Return the change of map, or why it is unknown, in a few words."""
    if isinstance(found, str):
        return f"not known: {found}"
    return change_words(found.delta) + (" NOT USABLE" if found.unusable else "")


@dataclass(frozen=True)
class Drop:
    """A loss of map and the largest allowed one."""

    allowed: float
    found: SplitChange | str
    """Change on the deciding split, or why it was not evaluated."""

    @property
    def holds(self) -> bool | None:
        """Return whether the loss is allowed; None if it is unknown."""
        return None if isinstance(self.found, str) else -self.found.delta[1] <= self.allowed + 1e-9

    @property
    def sure(self) -> bool | None:
        """Return whether the whole interval of the loss gives the same verdict; None if the loss is unknown."""
        if isinstance(self.found, str):
            return None
        low, _, high = self.found.delta
        return -low <= self.allowed + 1e-9 if self.holds else -high > self.allowed + 1e-9

    def __str__(self) -> str:
        """Return the verdict in a sentence."""
        if isinstance(self.found, str):
            return f"--max-drop {self.allowed:g}: whether it holds is not known, nothing was evaluated ({self.found})"
        verdict = "holds" if self.holds else "is exceeded"
        other = "more" if self.holds else "less"
        sure = "for sure" if self.sure else f"not for sure: the interval holds {other} too"
        return f"--max-drop {self.allowed:g} {verdict}, {sure} (map on {DECIDES} {change_words(self.found.delta)})"

    def tree(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        return {"allowed": self.allowed, "holds": self.holds, "sure": self.sure}


class Reference:
    """The network that results are compared with, loaded and evaluated once, for the first result."""

    def __init__(self, load: Callable[[], tuple[str, Find]], folder: Path, limit: int = LIMIT) -> None:
        """Store how to load the reference.

        Args:
            load: returns its name and its detector.
            folder: of its detections.
            limit: most detections of a class in an image that count, for both.
        """
        self._load, self._folder, self.limit = load, folder, limit
        self._loaded: tuple[str, Find] | None = None
        self._known: dict[str, Accuracy] = {}

    @property
    def name(self) -> str:
        """Return the name of the reference; empty before it is loaded."""
        return "" if self._loaded is None else self._loaded[0]

    def file(self, split: str) -> Path:
        """Return the file of its detections on a split."""
        return self._folder / f"{split}.npz"

    def on(self, name: str, split: Split) -> Accuracy:
        """Return its accuracy on a split."""
        from paretune.evaluation.accuracy import detect
        from paretune.evaluation.baseline_difference import evaluate_beside

        if name not in self._known:
            self._loaded = self._loaded or self._load()
            found = detect(self._loaded[1], split)
            self._known[name], _ = evaluate_beside(found, split, self.file(name), first=True, limit=self.limit)
        return self._known[name]


def accuracy_change(
    result: Find, reference: Reference, splits: Mapping[str, Split], progress: Callable[[str], None] = lambda _: None
) -> AccuracyChange:
    """Evaluate a result and its reference on ``val``, and on ``test`` if the dataset has it.

    An error is the reason why the accuracy is unknown and does not end the program: the result took long to make.

    Args:
        result: detector of the splits' classes.
        reference: with the same classes.
        splits: of the dataset.
        progress: called with a line before each split.
    """
    found: dict[str, SplitChange | str] = {}
    for name in SPLITS:
        if name in splits:
            progress(f"evaluating on {name}, {counted(len(splits[name]), 'image')}, before and after")
            found[name] = _on(result, reference, name, splits[name])
    return AccuracyChange(reference.name, found)


def _on(result: Find, reference: Reference, name: str, split: Split) -> SplitChange | str:
    from paretune.evaluation.accuracy import detect
    from paretune.evaluation.baseline_difference import evaluate_beside
    from paretune.evaluation.map_bootstrap import map_interval

    try:
        before = reference.on(name, split)
        detections = detect(result, split)
        after, change = evaluate_beside(detections, split, reference.file(name), limit=reference.limit)
        annotations = [split.annotations(index) for index in range(len(split))]
        own = map_interval(detections, annotations, len(split.classes), limit=reference.limit)
    except Exception as error:  # noqa: BLE001 - images and runtimes fail in any way, and the result stays
        return one_line(error) or type(error).__name__
    if own is None or change.reasons:
        return next(iter(change.reasons.values()), NO_OBJECTS)
    boxes = sum(len(one.scores) for one in detections)
    return SplitChange(len(split), before, after, change, own[0], own[2], boxes)


def check_judgeable(splits: Mapping[str, Split], max_drop: float) -> None:
    """Raise an error if a loss of accuracy cannot be measured.

    Raises:
        UserError: the deciding split holds no objects.
    """
    split = splits[DECIDES]
    if not any((~split.annotations(index).ignore).any() for index in range(len(split))):
        raise UserError(f"--max-drop {max_drop:g}: accuracy cannot be evaluated on {DECIDES}: {NO_OBJECTS}")
