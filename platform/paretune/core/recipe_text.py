"""A recipe in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AS_USUAL = ("fp32", "auto")
"""Settings of a runtime that are not printed."""


def recipe_line(recipe: Mapping[str, Any]) -> str:
    """Return a recipe in a few words: ``160 prune 0.3 l1 → finetune 6 → int8 → openvino bf16``."""
    words = [_step_words(*next(iter(step.items()))) for step in recipe["steps"]]
    runtime = _runtime_words(*next(iter(recipe["runtime"].items())))
    return f"{recipe['input_size']} {' → '.join([*words, runtime])}"


def _runtime_words(name: str, fields: Mapping[str, Any]) -> str:
    """Return a runtime's name and its settings."""
    values = [field.replace("_", " ") if value is True else str(value) for field, value in fields.items() if value]
    return " ".join([name, *(word for word in values if word not in AS_USUAL)])


def _step_words(name: str, fields: Any) -> str:
    """Return a step's name and its most important fields."""
    match name, fields:
        case "prune", {"ratio": ratio, "importance": importance}:
            budget = fields.get("budget", fields.get("of", "channels"))  # `of` is its name in older records
            share = "" if budget == "channels" else f" of {budget}"
            rounds = fields.get("rounds", 1)
            text = f"prune {ratio:g}{share} {importance}{f' in {rounds} rounds' if rounds > 1 else ''}"
        case "finetune", {"epochs": epochs}:
            more = ("" if fields.get("distill") is None else " taught", " qat" if fields.get("qat") else "")
            text = f"finetune {epochs}{''.join(more)}"
        case "factorize", {"method": method, "energy": energy}:
            rank = fields.get("rank")
            text = f"factorize {method} {energy if rank is None else rank:g}"
        case "sparsify", {"pattern": pattern, "sparsity": sparsity}:
            text = f"sparsify {sparsity:g}" if pattern == "unstructured" else f"sparsify {pattern}"
        case "cluster", {"bits": bits}:
            text = f"cluster {bits} bits"
        case "quantize", {"scheme": scheme}:
            tool = fields.get("tool", "onnxruntime")
            guarded = "" if fields.get("max_drop") is None else " guarded"
            text = f"{scheme}{'' if tool == 'onnxruntime' else f' {tool}'}{guarded}"
        case "prune" | "finetune" | "factorize" | "sparsify" | "cluster" | "quantize" | "recalibrate" | "export", _:
            text = name
        case _:  # of another package
            words = (f"{field.replace('_', ' ')} {_value(value)}" for field, value in (fields or {}).items())
            text = ", ".join([name, *words]) if fields else name
    return text


def _value(value: Any) -> str:
    """Return a field's value, a number without needless digits."""
    return f"{value:g}" if isinstance(value, float) else str(value)


RUNTIME_TITLES = {
    "eager": "PyTorch",
    "compiled": "compiled PyTorch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
}
"""Name of a runtime → what its makers call it."""
STAR = "★"
"""Mark of a point of the front."""


def runtime_title(recipe: Mapping[str, Any]) -> str:
    """Return the name of a recipe's runtime as its makers call it, with its settings."""
    name, fields = next(iter(recipe["runtime"].items()))
    return _runtime_words(RUNTIME_TITLES.get(name, name), fields)


def trial_title(number: int, recipe: Mapping[str, Any], *, starred: bool, usual_size: Any = None) -> str:
    """Return a trial as a title: ``004 ★ prune 40 % → finetune 7 → ONNX Runtime``.

    Args:
        number: of the trial.
        recipe: every field with its value.
        starred: whether the trial is on a front.
        usual_size: input size that is not printed; another one comes first.
    """
    size, steps = recipe["input_size"], [_title_words(*next(iter(step.items()))) for step in recipe["steps"]]
    name, fields = next(iter(recipe["runtime"].items()))
    runtime = " ".join([RUNTIME_TITLES.get(name, name), *_runtime_words(name, fields).split(" ")[1:]])
    begin = [f"{number:03d}", *([STAR] if starred else []), *([] if str(size) == str(usual_size) else [str(size)])]
    return f"{' '.join(begin)} {' → '.join([*(steps or ['unchanged']), runtime])}"


def _title_words(name: str, fields: Any) -> str:
    """Return a step for a title: the share of pruning in percent, other steps as in `recipe_line`."""
    if name == "prune" and isinstance(fields, Mapping) and "ratio" in fields:
        return f"prune {fields['ratio'] * 100:g} %"
    return _step_words(name, fields)


def main_settings(recipe: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the few settings of a recipe that people compare first, each by a plain name.

    Args:
        recipe: every field with its value.
        facts: of the trial's measurement, such as the precision that the runtime gives.

    Returns:
        ``size``; ``prune``, the share of channels that are cut in all; ``finetune``, all epochs; ``precision``;
        ``runtime``.
    """
    steps = [next(iter(step.items())) for step in recipe["steps"]]
    kept, epochs, precision = 1.0, 0, ""
    for name, fields in steps:
        values = fields if isinstance(fields, Mapping) else {}
        kept *= 1 - values.get("ratio", 0) if name == "prune" else 1
        epochs += values.get("epochs", 0) if name == "finetune" else 0
        precision = str(values.get("scheme", "")) if name == "quantize" else precision
    runtime, settings = next(iter(recipe["runtime"].items()))
    asked = (settings or {}).get("precision", "fp32")
    return {
        "size": recipe["input_size"],
        "prune": round(1 - kept, 4),
        "finetune": epochs,
        "precision": precision or facts.get("precision", "fp32" if asked == "auto" else asked),
        "runtime": runtime,
    }
