"""Accuracy guard: tries ways to quantize, the plainest first, until one loses little enough accuracy.

The accuracy is that of the artefact on the runtime that will run it, on the validation split; the test split is kept
for the final result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paretune.compression.base import Context
from paretune.compression.quantize.plan import Files
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.system.device_lock import shared_device

SPLIT = "val"
"""Split that the choice is made on."""


@dataclass(frozen=True)
class Candidate:
    """One way to quantize."""

    label: str
    make: Callable[[], Files]


@dataclass(frozen=True)
class GuardResult:
    """Result of the accuracy guard."""

    files: Files | None
    """Quantized files; None if every candidate lost too much."""
    notes: tuple[str, ...]


def try_candidates(
    candidates: Sequence[Candidate],
    further: Callable[[Candidate, Files], Iterable[Candidate]],
    map_of: Callable[[Files | None], float],
    max_drop: float,
    progress: Callable[[str], None],
) -> GuardResult:
    """Try one candidate after the other and return the first whose drop in map is within ``max_drop``.

    Args:
        candidates: ways to quantize, of which the first is plain quantization.
        further: makes more candidates from the one of these that lost least.
        map_of: returns the map of files, 0 to 1; that of the float files for None.
        max_drop: largest drop allowed, 0 to 1.
        progress: called with a line for each candidate.
    """
    float_map = map_of(None)
    tried: list[tuple[float, Candidate, Files]] = []

    def first_within(group: Iterable[Candidate]) -> bool:
        """Try candidates up to the first that loses little enough, and return whether there is one."""
        for candidate in group:
            files = candidate.make()
            drop = float_map - map_of(files)
            tried.append((drop, candidate, files))
            progress(f"quantize: {candidate.label} loses {drop:.4f} of map")
            if drop <= max_drop:
                return True
        return False

    accepted = first_within(candidates)
    if not accepted:
        _, best, files = min(tried, key=lambda entry: entry[0])
        accepted = first_within(further(best, files))
    plain = f"plain quantization ({candidates[0].label}) loses {tried[0][0]:.4f}"
    if accepted:
        drop, chosen, files = tried[-1]
        note = f"quantize: {chosen.label} loses {drop:.4f} of map on {SPLIT}, within max_drop {max_drop:g}"
        return GuardResult(files, (note if len(tried) == 1 else f"{note}; {plain}",))
    drop, best, _ = min(tried, key=lambda entry: entry[0])
    note = f"quantize changed nothing: {best.label} loses least of map on {SPLIT}, {drop:.4f}"
    return GuardResult(None, (f"{note}, more than max_drop {max_drop:g}; {plain}",))


def evaluate_map(model: Model, context: Context, folder: Path, files: Files | None) -> float:
    """Return the map of exported files on the runtime that will run them.

    Args:
        model: exported.
        context: runtime and target; ONNX Runtime stands in for a runtime that does not load such files.
        folder: receives the artefact that is evaluated.
        files: evaluated in place of the model's files; None evaluates those of the model.

    Raises:
        UserError: the validation split holds no objects.
    """
    from paretune.evaluation import evaluate
    from paretune.runtimes.predictor import Predictor

    if files is not None:
        first, *others = context.detector.part_names
        model = replace(model, file=files[first], more={part: files[part] for part in others})
    runtime = context.runtime
    if runtime is None or runtime.accepts != model.format:
        runtime = OnnxRuntime()
    artefact = write_artefact(
        folder,
        model,
        detector=context.detector,
        runtime=runtime,
        recipe_tree={},
        classes=context.classes,
        thresholds=context.thresholds,
    )
    with shared_device(context.target.device):
        predictor = Predictor(artefact, context.detector, runtime.load(artefact, context.target))
        accuracy = evaluate(predictor, context.data.splits[SPLIT], limit=context.thresholds.limit)
    if accuracy.map is None:
        raise UserError("quantize: max_drop needs objects in the validation split, and it has none")
    return accuracy.map
