"""What to try next: knobs of the search space, each with what it should gain and why, as recipes.

A knob's gain is the roofline's, layer by layer: one that reaches its roof well keeps its share of it, of the others
only the time at the roof shrinks, and the calls stay.
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
"""A side of the smaller input, before it is rounded to what detectors take."""
GRAIN = 32
PRUNED = 0.5
"""FLOPs left."""
FINETUNE: dict[str, Any] = {"finetune": {"epochs": 8, "distill": {}}}
TORCH = ("eager", "compiled")
FUSED = "openvino"
"""The runtime that is tried on a CPU where operators run one by one."""
LEAST = 1.03
"""Gains below it are not told: a measurement could not show them."""


@dataclass(frozen=True)
class Advice:
    """One knob."""

    knob: str
    """As in a recipe."""
    why: str
    predicted: float
    """Times as fast from image to boxes."""
    risk: str
    """What it may cost."""
    recipe: Mapping[str, Any]
    """For `paretune optimize`, or a sweep to try first."""

    def tree(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**vars(self), "recipe": dict(self.recipe)}


@dataclass(frozen=True)
class AdvisedArtefact:
    """What advice is given for."""

    recipe: Mapping[str, Any]
    """That it was made by, as its manifest holds it."""
    size: InputSize
    """Of its input."""
    device: str
    """Of the target."""
    detector: Detector


def advise(found: Diagnosis, candidate: AdvisedArtefact) -> list[Advice]:
    """Return the knobs that should pay, the largest gain first.

    None where nothing of the network's matters, or where it is not known what bounds it: a gain would be invented.
    """
    if found.unknown:
        return []
    knobs = (_fused, _quantized, _pruned, _smaller)
    given = [made for knob in knobs if (made := knob(found, candidate)) is not None]
    return sorted((one for one in given if one.predicted >= LEAST), key=lambda one: -one.predicted)


def _fused(found: Diagnosis, candidate: AdvisedArtefact) -> Advice | None:
    """Run the layers in a runtime that merges everything else into them."""
    recipe = candidate.recipe
    if _runtime(recipe) != "eager" or _has(recipe, "quantize"):
        return None
    other = FUSED if candidate.device == "cpu" else "compiled"
    fields = {} if isinstance(recipe["runtime"], str) else recipe["runtime"]["eager"]
    precision = fields.get("precision", "fp32")
    if other == FUSED and precision == "fp16":  # it does not compute in it, and how long fp32 takes was not measured
        return None
    runtime, told = (
        (other, other) if precision == "fp32" else ({other: {"precision": precision}}, f"{other}, {precision}")
    )
    # what lies between the layers is merged into them, and they are called as those are that reach their roof better
    after = found.apart_ms
    after += sum(layer.roof_ms / FAR if layer.bound == "launch" else layer.ms for layer in found.layers)
    calls = found.by_bound["launch"] / found.network_ms
    why = f"{calls:.0%} of the network's time goes into calls and what lies between the layers"
    return Advice(f"runtime: {told}", why, _gain(found, after), "none", _with(recipe, runtime=runtime))


def _quantized(found: Diagnosis, candidate: AdvisedArtefact) -> Advice | None:
    """Compute in INT8."""
    recipe = candidate.recipe
    if candidate.device != "cpu" or _has(recipe, "quantize") or "int8" not in found.roofs.compute:
        return None
    after = _network(found, lambda work: work.scaled(precision="int8"))
    if _runtime(recipe) in TORCH:  # each layer rounds its input itself, where exported files hand integers on
        after += 1000 * sum(found.roofs.int8_overhead(layer.work.maps / 2) for layer in found.layers)
    faster = found.roofs.compute["int8"] / found.roofs.compute["fp32"]
    has_nncf = _runtime(recipe) == "openvino" and find_spec("nncf") is not None  # an extra; the other tool does too
    step = {"quantize": {"tool": "nncf"} if has_nncf else {}}
    why = f"INT8 matrix products run {faster:.1f} times as fast as fp32 here, and a quarter of the bytes moves"
    return Advice("quantize", why, _gain(found, after), "accuracy", _with(recipe, last=[step]))


def _pruned(found: Diagnosis, candidate: AdvisedArtefact) -> Advice | None:
    """Take out channels until half of the FLOPs are left."""
    recipe = candidate.recipe
    if _has(recipe, "prune"):
        return None
    after = _network(found, lambda work: work.scaled(flops=PRUNED, weights=PRUNED, maps=PRUNED**0.5))
    first = [{"prune": {"ratio": PRUNED, "budget": "flops", "round_to": 8}}, FINETUNE]
    bound = found.by_bound["compute"] + found.by_bound["memory"]
    why = f"{bound / found.network_ms:.0%} of the network's time is spent on computing and moving"
    return Advice("prune", why, _gain(found, after), "accuracy, minutes of fine-tuning", _with(recipe, first=first))


def _smaller(found: Diagnosis, candidate: AdvisedArtefact) -> Advice | None:
    """Look at smaller images."""
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
    """Return the network's time in ms after a change of every layer's work."""
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
    """Return the name of a recipe's runtime, written as a word or with fields."""
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
    """Return a recipe with steps before and after its own, and other fields."""
    steps = [*(first or []), *recipe["steps"], *(last or [])]
    return deepcopy({**recipe, "steps": steps, **fields})
