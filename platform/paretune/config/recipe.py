"""Recipe: what one trial does to the baseline, and what runs the result."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from paretune.compression import STEPS
from paretune.compression.base import Step, conversions
from paretune.core.model import Format
from paretune.core.spec import Spec, flat, misplaced, plugin
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.runtimes import RUNTIMES
from paretune.runtimes.base import Runtime


def readable_size(value: int | str) -> int | str:
    """Return an input size as it is written.

    Raises:
        ValueError: it is none.
    """
    InputSize.parse(value)
    return value


WrittenSize = Annotated[int | str, AfterValidator(readable_size)]
"""An input size as people write it."""


class Recipe(Spec):
    """Input size, steps in order, runtime."""

    input_size: WrittenSize = 320
    """Pixels of the network's input: one number for a square, or WIDTHxHEIGHT such as 192x144."""
    steps: Annotated[tuple[Annotated[Step, *plugin(STEPS)], ...], Field(strict=False)] = ()
    """Steps the baseline goes through, in order; export is put in where what follows needs it."""
    runtime: Annotated[Runtime, *plugin(RUNTIMES)]
    """What runs the result."""

    @model_validator(mode="after")
    def _formats_meet(self) -> Recipe:
        wrong: dict[tuple[str | int, ...], tuple[str, Any]] = {
            ("steps", index, step.name, field): (f"{said}; the runtime is {self.runtime.name}", getattr(step, field))
            for index, step in enumerate(self.steps)
            for field, said in step.unsupported_fields(self.runtime.accepts).items()
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
        """The steps as they are carried out: with an export wherever what follows takes ONNX.

        Raises:
            ValueError: a step or the runtime takes a format that nothing before it makes, or a step stands after
                one that nothing can follow.
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
        """Tell why what one of its steps makes would not run on a target as it is meant; None if all would."""
        told = ((step.name, step.unsupported_reason(self.runtime, target)) for step in self.steps)
        return next((f"steps: {name}: {said}" for name, said in told if said), None)

    def params(self) -> dict[str, Any]:
        """Return the recipe as flat parameters for the log; a step's fields by the step's name.

        A step that stands twice has its position behind its name the second time (``finetune_2.epochs``).
        """
        found: dict[str, Any] = {"input_size": str(self.size), "runtime": self.runtime.name}
        found |= flat(self.runtime.tree(), f"{self.runtime.name}.")
        seen: dict[str, int] = {}
        for step in self.steps:
            seen[step.name] = seen.get(step.name, 0) + 1
            name = step.name if seen[step.name] == 1 else f"{step.name}_{seen[step.name]}"
            found |= flat(step.tree(), f"{name}.") or {name: True}
        return found


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
