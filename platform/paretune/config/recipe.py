"""The recipe of a trial: input size, steps, runtime."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from paretune.compression import STEPS
from paretune.compression.base import Step, conversions
from paretune.core.errors import UserError
from paretune.core.model import Format
from paretune.core.registry import Registry
from paretune.core.spec import Spec, flat, misplaced, plugin
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.runtimes import RUNTIMES
from paretune.runtimes.base import Runtime


def readable_size(value: int | str) -> int | str:
    """Return an input size if it is valid.

    Raises:
        ValueError: it is not valid.
    """
    InputSize.parse(value)
    return value


WrittenSize = Annotated[int | str, AfterValidator(readable_size)]
"""An input size as written in YAML."""


class Recipe(Spec):
    """Input size, steps in order, runtime."""

    input_size: WrittenSize = 320
    """Pixels of the network's input: one number for a square, or WIDTHxHEIGHT such as 192x144."""
    steps: Annotated[tuple[Annotated[Step, *plugin(STEPS)], ...], Field(strict=False)] = ()
    """Steps applied to the baseline, in order; an export is inserted where the next step or the runtime needs it."""
    runtime: Annotated[Runtime, *plugin(RUNTIMES)]
    """Runtime of the result."""

    @model_validator(mode="after")
    def _formats_meet(self) -> Recipe:
        wrong: dict[tuple[str | int, ...], tuple[str, Any]] = {
            ("steps", index, step.name, field): (f"{reason}; the runtime is {self.runtime.name}", getattr(step, field))
            for index, step in enumerate(self.steps)
            for field, reason in step.unsupported_fields(self.runtime.accepts).items()
        }
        if wrong:
            raise misplaced("Recipe", wrong)
        _ = self.chain
        return self

    @property
    def size(self) -> InputSize:
        """Return the parsed input size."""
        return InputSize.parse(self.input_size)

    @cached_property
    def chain(self) -> tuple[Step, ...]:
        """The steps with an export inserted wherever the next step or the runtime takes ONNX.

        Raises:
            ValueError: a step or the runtime takes a format that no step before it makes, or a step follows one that
                must be the last.
        """
        chain: list[Step] = []
        now: Format = "torch"
        for step in self.steps:
            if chain and chain[-1].final:
                raise ValueError(f"step {step.name!r} stands after {chain[-1].name!r}, which must be the last")
            now = _bridge(chain, now, step.takes(self.runtime.accepts), f"step {step.name!r}")
            chain.append(step)
            now = step.produces or now
        _bridge(chain, now, self.runtime.accepts, f"runtime {self.runtime.name!r}")
        return tuple(chain)

    def unsupported_reason(self, target: Target) -> str | None:
        """Return why the result of a step would not run on a target; None if all would."""
        reasons = ((step.name, step.unsupported_reason(self.runtime, target)) for step in self.steps)
        return next((f"steps: {name}: {reason}" for name, reason in reasons if reason), None)

    def params(self) -> dict[str, Any]:
        """Return the recipe as flat parameters for the log, such as ``prune.ratio``.

        The second step of one name is numbered: ``finetune_2.epochs``.
        """
        values: dict[str, Any] = {"input_size": str(self.size), "runtime": self.runtime.name}
        values |= flat(self.runtime.tree(), f"{self.runtime.name}.")
        seen: dict[str, int] = {}
        for step in self.steps:
            seen[step.name] = seen.get(step.name, 0) + 1
            name = step.name if seen[step.name] == 1 else f"{step.name}_{seen[step.name]}"
            values |= flat(step.tree(), f"{name}.") or {name: True}
        return values


def present_names(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded recipe with the present names of its fields."""
    steps = [_renamed(step, STEPS) for step in recipe.get("steps", ())]
    runtime = recipe.get("runtime")
    runtime = _renamed(runtime, RUNTIMES) if isinstance(runtime, Mapping) else runtime
    return {**recipe, "steps": steps, **({} if runtime is None else {"runtime": runtime})}


def _renamed(plugin: Any, table: Registry[Any]) -> Any:
    """Return a written plug-in with the present names of its fields."""
    if not isinstance(plugin, Mapping) or len(plugin) != 1:
        return plugin
    ((name, fields),) = plugin.items()
    try:
        renamed = getattr(table.load(name), "renamed", {})
    except UserError:  # it is not installed here
        renamed = {}
    return {name: {renamed.get(field, field): value for field, value in (fields or {}).items()}}


def _bridge(chain: list[Step], now: Format, wanted: Format, who: str) -> Format:
    """Append the conversions to the format that ``who`` takes, and return that format.

    Raises:
        ValueError: no steps lead there.
    """
    try:
        chain.extend(conversions(now, wanted))
    except ValueError as error:
        raise ValueError(f"{who} takes a {wanted} model, but gets {now} from the step before it") from error
    return wanted
