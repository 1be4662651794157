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
