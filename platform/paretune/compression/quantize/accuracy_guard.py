"""Accuracy guard: ways to quantize are tried, the plainest first, until one loses little enough.

What is judged is the artefact itself, on the runtime that will run it and on the validation split: the
test split stays for the claim.
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
"""The split that choices are made on."""


@dataclass(frozen=True)
class Candidate:
    """One way to quantize."""

    label: str
    make: Callable[[], Files]


@dataclass(frozen=True)
class GuardResult:
    """What the guard has chosen."""

    files: Files | None
    """None: nothing lost little enough."""
    notes: tuple[str, ...]


def climb(
    rungs: Sequence[Candidate],
    further: Callable[[Candidate, Files], Iterable[Candidate]],
    judge: Callable[[Files | None], float],
    max_drop: float,
    progress: Callable[[str], None],
) -> GuardResult:
    """Try one rung after the other and take the first whose drop is within ``max_drop``.

    Args:
        rungs: of which the first is plain quantization.
        further: gives more rungs, made from the one of these that lost least.
        judge: the map of files, 0 to 1; of the float files for None.
        max_drop: the most that may be lost, 0 to 1.
        progress: told of each rung.
    """
    whole = judge(None)
    tried: list[tuple[float, Candidate, Files]] = []

    def first_within(some: Iterable[Candidate]) -> bool:
        """Make and judge rungs up to the first that loses little enough; False where none does."""
        for rung in some:
            files = rung.make()
            drop = whole - judge(files)
            tried.append((drop, rung, files))
            progress(f"quantize: {rung.label} loses {drop:.4f} of map")
            if drop <= max_drop:
                return True
        return False

    taken = first_within(rungs)
    if not taken:
        _, best, files = min(tried, key=lambda entry: entry[0])
        taken = first_within(further(best, files))
    plain = f"plain quantization ({rungs[0].label}) loses {tried[0][0]:.4f}"
    if taken:
        drop, rung, files = tried[-1]
        told = f"quantize: {rung.label} loses {drop:.4f} of map on {SPLIT}, within max_drop {max_drop:g}"
        return GuardResult(files, (told if len(tried) == 1 else f"{told}; {plain}",))
    drop, best, _ = min(tried, key=lambda entry: entry[0])
    told = f"quantize changed nothing: {best.label} loses least of map on {SPLIT}, {drop:.4f}"
    return GuardResult(None, (f"{told}, more than max_drop {max_drop:g}; {plain}",))


def judge(model: Model, context: Context, folder: Path, files: Files | None) -> float:
    """Return the map of a model's files, or of others in their place, on the runtime that will run them.

    Args:
        model: exported.
        context: its runtime and target are asked; ONNX Runtime where there is none that takes such files.
        folder: where an artefact is made for it.
        files: in place of the model's.

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
        classes=context.data.classes,
        thresholds=context.thresholds,
    )
    with shared_device(context.target.device):
        predictor = Predictor(artefact, context.detector, runtime.load(artefact, context.target))
        found = evaluate(predictor, context.data.splits[SPLIT], limit=context.thresholds.limit)
    if found.map is None:
        raise UserError("quantize: max_drop needs objects in the validation split, and it has none")
    return found.map
