"""The interface of a compression step, and the context that it works in."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from paretune.compression import STEPS
from paretune.core.model import Accepted, Format, Model, WeightProperty
from paretune.core.spec import Spec
from paretune.core.target import Target
from paretune.core.types import Data, Thresholds
from paretune.data.base import Dataset
from paretune.detectors.base import Detector
from paretune.runtimes.base import Runtime
from paretune.system.device_lock import shared_device
from paretune.training.history import TrainingStep, no_step
from paretune.training.settings import Training

if TYPE_CHECKING:
    from torch import nn


def _no_rungs(_epochs: int) -> frozenset[int]:
    """Return no epochs."""
    return frozenset()


def _no_epoch(_number: int, _epochs: int, _metrics: Mapping[str, float]) -> None:
    """Ignore an epoch."""


ContextPart = Literal["data", "training", "seed", "baseline", "runtime", "target", "thresholds", "machine"]
"""Part of a context that the result of a step may depend on.

``data`` stands for the images and annotations, ``machine`` for the machine that the step runs on. Classes, detector,
device, cache, working folder and progress may be used without being declared.
"""
ALL_PARTS: frozenset[ContextPart] = frozenset(
    ("data", "training", "seed", "baseline", "runtime", "target", "thresholds", "machine")
)
_FIELDS: Mapping[str, ContextPart] = {
    "data": "data",
    "dataset": "data",
    "training": "training",
    "seed": "seed",
    "baseline": "baseline",
    "runtime": "runtime",
    "target": "target",
    "thresholds": "thresholds",
}
"""Field of a context → the part that it belongs to."""


def _no_progress(_: str) -> None:
    """Ignore a line of progress."""


@dataclass(frozen=True)
class Context:
    """Everything besides the model that a step may use."""

    detector: Detector
    data: Data
    training: Training
    """Settings that the baseline was trained with: the defaults of fine-tuning."""
    workdir: Path
    """Folder of the trial for files that the step creates."""
    seed: int = 0
    device: str = "cpu"
    """Torch device that a step trains on."""
    progress: Callable[[str], None] = _no_progress
    """Called with a short line during long work."""
    epoch_done: Callable[[int, int, Mapping[str, float]], None] = _no_epoch
    """Called after each epoch of a training with its number from 1, the number of epochs, and metrics."""
    on_step: Callable[[TrainingStep], None] = no_step
    """Called after each step of a training."""
    rungs: Callable[[int], frozenset[int]] = _no_rungs
    """Function from the number of epochs of a training to those after which it is validated, and may be paused; the
    result of a step does not depend on it."""
    dataset: Dataset | None = None
    """Dataset that ``data`` was opened from: workers in other processes open it themselves."""
    cache: Path | None = None
    """Folder where the dataset keeps generated files."""
    baseline: Path | None = None
    """Folder of the trained, uncompressed network: the default teacher."""
    target: Target = field(default_factory=Target)
    """Device that the result will run on."""
    runtime: Runtime | None = None
    """Runtime that will run the result; used by steps that measure or evaluate."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """Thresholds of the postprocessing."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        data: Data = object.__getattribute__(self, "data")
        return data.classes

    def in_folder(self, workdir: Path) -> Context:
        """Return the context with another working folder."""
        changed = copy.copy(self)
        object.__setattr__(changed, "workdir", workdir)
        return changed

    def without_rungs(self) -> Context:
        """Return the context of a training inside a step, which is not compared with other trials on the way."""
        changed = copy.copy(self)
        object.__setattr__(changed, "rungs", _no_rungs)
        return changed

    def restricted(self, parts: Collection[ContextPart]) -> Context:
        """Return a context that raises a RuntimeError if a part that is not listed is used."""
        restricted = object.__new__(_RestrictedContext)
        vars(restricted).update(vars(self))
        allowed = frozenset(parts) & getattr(self, "_allowed", ALL_PARTS)
        object.__setattr__(restricted, "_allowed", allowed)
        return restricted


class _RestrictedContext(Context):
    """A context in which only the parts that a step declares can be used."""

    _allowed: frozenset[ContextPart]

    def __getattribute__(self, name: str) -> Any:
        part = _FIELDS.get(name)
        if part is not None and part not in object.__getattribute__(self, "_allowed"):
            raise RuntimeError(f"the step uses context.{name}, and its method `uses` does not return {part!r}")
        return object.__getattribute__(self, name)


class Step(Spec, ABC):
    """One compression: turns a model into another one. Importing its file must not import torch.

    A subclass writes ``_apply``; ``apply`` around it keeps the history, the counts and the mode of the network.

    A step that replaces a layer by one of another class must implement ``networks.replacement_layers.Replacement`` in
    that class and list it in the table ``REPLACEMENTS``, or in the entry point group ``paretune.replacement``: a saved
    network names its replaced layers there. ``apply`` raises an error where the row is missing.

    What its result depends on besides its fields and the model is declared by ``uses``, which ``apply`` enforces: the
    context raises an error if another part is used. Results are shared between trials by it.

    A step that exports to a file format of its own sets ``produces`` to the format's name; it is inserted into
    recipes whose runtime loads that format.
    """

    accepts: ClassVar[Accepted] = "torch"
    produces: ClassVar[Format | None] = "torch"
    """Format of the result; None for the format of the input."""
    final: ClassVar[bool] = False
    """Whether no step can follow it."""
    locks: ClassVar[bool] = False
    """Whether it takes the device lock itself, since it measures or trains for long; the CPU is shared during other
    steps."""
    makes: ClassVar[frozenset[WeightProperty]] = frozenset()
    """Properties that it gives to the weights and later training would destroy: steps that train keep ``zeros``."""

    revision: ClassVar[int] = 1
    """Number to raise when the step computes something else from the same fields, so that stored results are not
    used."""
    libraries: ClassVar[tuple[str, ...]] = ("torch", "torchvision")
    """Packages whose versions its result depends on."""

    def uses(self) -> frozenset[ContextPart]:
        """Return the parts of the context that the result depends on; all of them unless a step declares fewer."""
        return ALL_PARTS

    def other_networks(self) -> tuple[Path, ...]:
        """Return the folders of networks, besides the baseline, that the result depends on."""
        return ()

    def untrained(self) -> Self | None:
        """Return the step without training, which leads to a network of equal structure; None to leave it out.

        The latency of a network does not depend on its weights, so a recipe of such steps tells it before any training.
        """
        return None if self.trains else self

    def takes(self, loaded: Format) -> Format:
        """Return the format that it takes in a recipe whose runtime loads ``loaded``."""
        if self.accepts != "either":
            return self.accepts
        return "torch" if loaded == "torch" else "onnx"

    def unsupported_fields(self, loaded: Format) -> dict[str, str]:  # noqa: ARG002 - most steps have none
        """Return the fields whose values do not work with a runtime that loads this format, each with the reason."""
        return {}

    def unsupported_reason(self, runtime: Runtime, target: Target) -> str | None:  # noqa: ARG002 - for overriding
        """Return why the result would not run on a target as intended, or None."""
        return None

    @property
    def trains(self) -> bool:
        """Whether it trains for epochs: its result is kept when a later step fails."""
        return False

    def apply(self, model: Model, context: Context) -> Model:
        """Return the compressed model with an updated history; the given model stays unchanged.

        The network of the result is in eval mode on the CPU, its parameters and operations counted.

        Raises:
            RuntimeError: a new layer class is missing in the table of replacements, or the step used a part of the
                context that it does not declare.
        """
        result = self._apply(replace(model, changed=True), context.restricted(self.uses()))
        if result.network is not None and result.network is not model.network:
            result = self._counted(result, result.network.cpu().eval(), model.network)
        return replace(
            result,
            history=(*model.history, self.name),
            file_format=self.produces if self.produces not in (None, "torch") else result.file_format,
            weight_properties=model.weight_properties | self.makes,
        )

    @abstractmethod
    def _apply(self, model: Model, context: Context) -> Model:
        """Return the compressed model; history, counts and mode of the network are set by ``apply``.

        Args:
            model: stays unchanged; a network is copied before it is modified.
            context: of the trial.

        Returns:
            The new model, or ``model.unchanged(reason)`` where nothing was compressed.
        """

    def _counted(self, result: Model, network: nn.Module, before: nn.Module | None) -> Model:
        """Return the result with its parameters and operations counted, its layers checked.

        Raises:
            RuntimeError: a new layer class is missing in the table of replacements.
        """
        from paretune.networks.network_files import count
        from paretune.networks.replacement_layers import check_replacements

        check_replacements(network, before)
        if self.final:  # INT8 layers do not hold their weights as parameters
            return result
        with shared_device("cpu") if self.locks else nullcontext():
            params, flops = count(network, result.input_size)
        return replace(result, params=params, flops=flops)


def conversions(now: Format, wanted: Format) -> list[Step]:
    """Return the steps that bring a model from one format to another, the fewest there are.

    Every step in the table that produces another format than it accepts is a conversion.

    Raises:
        ValueError: no steps lead there.
    """
    steps = [step for step in STEPS.loadable() if issubclass(step, Step)] if now != wanted else []
    paths: dict[Format, list[Step]] = {now: []}
    for _ in steps:
        for step in steps:
            if step.accepts in paths and step.produces is not None and step.produces not in paths:
                paths[step.produces] = [*paths[step.accepts], step()]
    if wanted not in paths:
        raise ValueError(f"no step makes a {wanted} model of a {now} one")
    return paths[wanted]


def with_past_steps(model: Model, steps: Sequence[Mapping[str, object]]) -> Model:
    """Return a model with the history and the weight properties of the steps that once made its network.

    A step that is not installed here gives a note: what later steps would have to keep is unknown.

    Args:
        model: with a network from disk.
        steps: as a recipe or a manifest writes them, ``{name: fields}``.
    """
    names = tuple(name for step in steps for name in step)
    known = [STEPS.load(name) for name in names if name in STEPS.rows]
    properties = frozenset[WeightProperty]().union(*(step.makes for step in known))
    lost = [
        f"step {name} is not installed here: training may undo what it did" for name in names if name not in STEPS.rows
    ]
    return replace(model, history=names, weight_properties=properties).noted(*lost)
