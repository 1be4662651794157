"""Advice on what to try next: recipes that change one knob of the search space, with predicted gain and reason.

The gain is predicted layer by layer with the roofline: an efficient layer keeps its share of the roof, and a layer that
is bound by launches keeps its overhead, so that only its time at the roof shrinks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from typing import Any

from paretune.core.types import InputSize
from paretune.detectors.base import Detector
from paretune.profiling.roofline.diagnosis import FAR, Diagnosis, TimedLayer
from paretune.profiling.roofline.layer_work import LayerWork

SHRINK = 0.75
"""Side of the smaller input as a share of the side, before rounding."""
GRAIN = 32
"""Multiple to which sides of inputs are rounded."""
PRUNED = 0.5
"""Share of the FLOPs that pruning leaves."""
FINETUNE: dict[str, Any] = {"finetune": {"epochs": 8, "distill": {}}}
TORCH = ("eager", "compiled")
FUSED = "openvino"
"""Runtime that is advised on a CPU in place of eager, which runs operators one by one."""
LEAST = 1.03
"""Least predicted speed-up of an advice: a measurement could not show less."""


@dataclass(frozen=True)
class Advice:
    """A change of one knob."""

    knob: str
    """Name of the knob as in a recipe."""
    why: str
    predicted: float
    """Predicted speed-up from image to boxes."""
    risk: str
    """Possible costs."""
    recipe: Mapping[str, Any]
    """Recipe for `paretune optimize`, or for a sweep to try first."""

    def tree(self) -> dict[str, Any]:
        """Return the advice as plain data."""
        return {**vars(self), "recipe": dict(self.recipe)}


@dataclass(frozen=True)
class AdvisedArtefact:
    """The artefact for which advice is given."""

    recipe: Mapping[str, Any]
    """Recipe in its manifest."""
    size: InputSize
    """Size of its input."""
    device: str
    """Device of the target."""
    detector: Detector


def advise(found: Diagnosis, candidate: AdvisedArtefact) -> list[Advice]:
    """Return the advice with a gain of at least ``LEAST``, the largest gain first.

    There is none if it is not known what bounds the network.
    """
    if found.unknown:
        return []
    knobs = (_fused, _quantized, _pruned, _smaller)
    given = [made for knob in knobs if (made := knob(found, candidate)) is not None]
    return sorted((one for one in given if one.predicted >= LEAST), key=lambda one: -one.predicted)


def _fused(found: Diagnosis, candidate: AdvisedArtefact) -> Advice | None:
    """Return advice to use a runtime that merges other operators into the layers."""
    recipe = candidate.recipe
    if _runtime(recipe) != "eager" or _has(recipe, "quantize"):
        return None
    other = FUSED if candidate.device == "cpu" else "compiled"
    fields = {} if isinstance(recipe["runtime"], str) else recipe["runtime"]["eager"]
    precision = fields.get("precision", "fp32")
    if (
        other == FUSED and precision == "fp16"
    ):  # the runtime does not compute in fp16, and the time of fp32 was not measured
        return None
    runtime, words = (
        (other, other) if precision == "fp32" else ({other: {"precision": precision}}, f"{other}, {precision}")
    )
    # operators between the layers are merged into them, and layers have no more overhead than those below the limit
    after = found.apart_ms
    after += sum(layer.roof_ms / FAR if layer.bound == "launch" else layer.ms for layer in found.layers)
    calls = found.by_bound["launch"] / found.network_ms
    why = f"{calls:.0%} of the network's time goes into calls and what lies between the layers"
    return Advice(f"runtime: {words}", why, _gain(found, after), "none", _with(recipe, runtime=runtime))


def _quantized(found: Diagnosis, candidate: AdvisedArtefact) -> Advice | None:
    """Return advice to compute in INT8."""
    recipe = candidate.recipe
    if candidate.device != "cpu" or _has(recipe, "quantize") or "int8" not in found.roofs.compute:
        return None
    after = _network(found, lambda work: work.scaled(precision="int8"))
    if _runtime(recipe) in TORCH:  # each layer rounds its input; exported files pass integers on
        after += 1000 * sum(found.roofs.int8_overhead(layer.work.maps / 2) for layer in found.layers)
    faster = found.roofs.compute["int8"] / found.roofs.compute["fp32"]
    has_nncf = (
        _runtime(recipe) == "openvino" and find_spec("nncf") is not None
    )  # an optional package; the default tool needs none
    step = {"quantize": {"tool": "nncf"} if has_nncf else {}}
    why = f"INT8 matrix products run {faster:.1f} times as fast as fp32 here, and a quarter of the bytes moves"
    return Advice("quantize", why, _gain(found, after), "accuracy", _with(recipe, last=[step]))


def _pruned(found: Diagnosis, candidate: AdvisedArtefact) -> Advice | None:
    """Return advice to remove channels until half of the FLOPs are left."""
    recipe = candidate.recipe
    if _has(recipe, "prune"):
        return None
    after = _network(found, lambda work: work.scaled(flops=PRUNED, weights=PRUNED, maps=PRUNED**0.5))
    first = [{"prune": {"ratio": PRUNED, "budget": "flops", "round_to": 8}}, FINETUNE]
    bound = found.by_bound["compute"] + found.by_bound["memory"]
    why = f"{bound / found.network_ms:.0%} of the network's time is spent on computing and moving"
    return Advice("prune", why, _gain(found, after), "accuracy, minutes of fine-tuning", _with(recipe, first=first))


def _smaller(found: Diagnosis, candidate: AdvisedArtefact) -> Advice | None:
    """Return advice to use smaller images."""
    recipe = candidate.recipe
    size = candidate.size
    smaller = InputSize(*(max(GRAIN, ceil(side * SHRINK / GRAIN) * GRAIN) for side in (size.width, size.height)))
    share = smaller.width * smaller.height / (size.width * size.height)
    if share >= 1 or candidate.detector.size_unsupported_reason(smaller) is not None:
        return None
    after = _network(found, lambda work: work.scaled(flops=share, maps=share))
    first = [] if _has(recipe, "finetune") else [FINETUNE]
    why = f"{smaller} has {share:.0%} of the pixels, and every layer's work goes with them"
    made = _with(recipe, first=first, input_size=str(smaller))
    return Advice(f"input_size: {smaller}", why, _gain(found, after), "accuracy, small objects above all", made)


def _network(found: Diagnosis, change: Callable[[LayerWork], LayerWork]) -> float:
    """Return the network's predicted time in ms after a change of every layer's work."""
    return found.apart_ms + found.rest_ms + sum(_changed(found, layer, change(layer.work)) for layer in found.layers)


def _changed(found: Diagnosis, layer: TimedLayer, work: LayerWork) -> float:
    precision = work.precision if work.precision in found.roofs.compute else "fp32"
    roof = 1000 * found.roofs.seconds(work.flops, work.nbytes, precision)
    if layer.bound == "launch":
        return max(roof, layer.ms - (layer.roof_ms - roof))
    return layer.ms * roof / layer.roof_ms


def _gain(found: Diagnosis, network: float) -> float:
    return found.total_ms / (found.total_ms - found.network_ms + network)


def _runtime(recipe: Mapping[str, Any]) -> str:
    """Return the name of a recipe's runtime, with or without fields."""
    runtime = recipe["runtime"]
    return runtime if isinstance(runtime, str) else next(iter(runtime))


def _has(recipe: Mapping[str, Any], step: str) -> bool:
    return any(step == one or step in one for one in recipe["steps"])


def _with(
    recipe: Mapping[str, Any],
    *,
    first: list[dict[str, Any]] | None = None,
    last: list[dict[str, Any]] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Return a recipe with further steps before and after its own, and other fields."""
    steps = [*(first or []), *recipe["steps"], *(last or [])]
    return deepcopy({**recipe, "steps": steps, **fields})
