"""Every compression step as a function on a torch module: ``paretune.steps.prune(network, example, detector="yolo")``.

There is a function for each row of the table of steps, also for those of other packages, made from the step's class;
``help(paretune.steps.prune)`` shows its fields. All have the arguments of `apply`, and return a `Model`, whose
``network`` is the compressed module. A `Model` may be given in place of a module, so steps can follow one another.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.api.inputs import DataSource, Tell, images_named, missing_as_user_error, plugin_of, written
from paretune.compression import STEPS
from paretune.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paretune.compression.base import Context, Step
    from paretune.core.model import Model
    from paretune.core.types import Data, InputSize
    from paretune.detectors.base import Detector
    from paretune.runtimes.base import Runtime
    from paretune.training.settings import Training


@missing_as_user_error
def apply(  # noqa: PLR0913 - everything that a step may use
    step: str | Mapping[str, Any] | Step,
    network: nn.Module | Model,
    example: Tensor | InputSize | int | str | None = None,
    *,
    detector: str | Mapping[str, Any] | Detector,
    data: DataSource | Data | None = None,
    training: Training | Mapping[str, Any] | None = None,
    baseline: str | Path | None = None,
    runtime: str | Mapping[str, Any] | Runtime = "eager",
    seed: int = 0,
    workdir: str | Path | None = None,
    tell: Tell = lambda _: None,
) -> Model:
    """Apply a step to a network, which stays unchanged.

    Args:
        step: its name, ``{name: fields}``, or a `Step`.
        network: module that a detector has built, or the `Model` that another step returned.
        example: input of the network (1, 3, H, W), or its size as a job writes it; not needed for a `Model`.
        detector: of the network: its name, ``{name: fields}``, or a `Detector` of your own.
        data: images to train, calibrate and compare with, for steps that need them.
        training: settings of the network's training, the defaults of fine-tuning.
        baseline: folder of a trained, uncompressed network, the default teacher of distillation.
        runtime: that will run the result; with one of files, such as onnxruntime, `quantize` exports first.
        seed: of everything random.
        workdir: folder for the files of steps that write some (export, and quantization for a runtime of files).
        tell: called with a line during long work.

    Returns:
        The new model: ``network`` in eval mode on the CPU, or ``file`` once it is exported; ``params``, ``flops``,
        ``history`` and ``notes``.

    Raises:
        UserError: a wrong field, or something that this step needs is missing.
        FloatingPointError: a training diverged.
        RuntimeError: the step failed.

    Example:
        >>> slim = paretune.steps.prune(network, 192, detector="yolo", ratio=0.4)
        >>> tuned = paretune.steps.finetune(slim, detector="yolo", data="jobs/voc.yaml", epochs=4)
    """
    from paretune.compression.base import conversions
    from paretune.detectors import DETECTORS
    from paretune.runtimes import RUNTIMES
    from paretune.system.device_lock import shared_device

    chosen: Step = plugin_of(step, STEPS)
    runs_on: Runtime = plugin_of(runtime, RUNTIMES)
    if reasons := chosen.unsupported_fields(runs_on.accepts):
        raise UserError(f"{chosen.name}: {'; '.join(reasons.values())}; the runtime is {runs_on.name}")
    model, wanted = _model(network, example), chosen.takes(runs_on.accepts)
    try:
        chain = [*conversions(model.format, wanted), chosen]
    except ValueError as error:
        raise UserError(f"{chosen.name}: takes a {wanted} model, and gets {model.format}: {error}") from error
    if data is None and (lacking := [one.name for one in chain if "data" in one.uses()]):
        raise UserError(f"{chosen.name}: {lacking[0]} needs images; name them with data=")
    if workdir is None and (wanted != "torch" or chosen.produces not in (None, "torch")):
        raise UserError(f"{chosen.name}: writes files; name a folder for them with workdir=")
    with tempfile.TemporaryDirectory() as spare:
        place = Path(workdir or spare)
        place.mkdir(parents=True, exist_ok=True)
        context = replace(
            _context(plugin_of(detector, DETECTORS), data, training, place),
            runtime=runs_on,
            seed=seed,
            progress=tell,
            baseline=None if baseline is None else Path(baseline),
        )
        for one in chain:
            with nullcontext() if one.locks else shared_device("cpu"):
                model = one.apply(model, context)
    return model


def load(folder: str | Path) -> tuple[Model, Detector]:
    """Read the network of a training, of a sweep's baseline, or the float network of an artefact.

    Args:
        folder: of the network.

    Returns:
        The model that the steps take, and its detector.

    Raises:
        UserError: there is no network.

    Example:
        >>> model, detector = paretune.steps.load("runs/trainings/first")
    """
    from paretune.compression.base import with_past_steps
    from paretune.networks.network_files import load_network
    from paretune.workflows.recipe_source import read_source

    source = read_source(Path(folder))
    network = load_network(source.detector, len(source.classes), source.start.folder)
    return with_past_steps(_model(network, source.size), source.start.steps), source.detector


def __getattr__(name: str) -> Callable[..., Model]:
    """Return the function of a step.

    Raises:
        AttributeError: there is no such step.
        UserError: the library that it needs is not installed.
    """
    if name.startswith("_") or name not in STEPS.rows:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(STEPS.names)}")
    function = _function_of(STEPS.load(name))
    globals()[name] = function
    return function


def __dir__() -> list[str]:
    """Return the names of the functions."""
    return sorted(["apply", "load", *STEPS.names])


def _function_of(cls: type[Step]) -> Callable[..., Model]:
    """Return the function of a step's class, with its fields in signature and documentation."""
    shared = inspect.signature(apply)
    own = [
        inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default=info.get_default(call_default_factory=True),
            annotation=info.annotation,
        )
        for field, info in cls.model_fields.items()
        if field not in shared.parameters
    ]
    parameters = [parameter for name, parameter in shared.parameters.items() if name != "step"]

    def function(network: nn.Module | Model, example: Any = None, **given: Any) -> Model:
        fields = {name: value for name, value in given.items() if name not in shared.parameters}
        others = {name: value for name, value in given.items() if name in shared.parameters}
        return apply({cls.name: fields}, network, example, **others)

    about = "\n".join(
        f"    {name}: {' '.join((info.description or '').split())}" for name, info in cls.model_fields.items()
    )
    function.__name__ = function.__qualname__ = cls.name
    function.__module__ = __name__
    function.__doc__ = (
        f"{inspect.cleandoc(cls.__doc__ or '')}\n\nFields of the step:\n{about}\n\nAll else is as in `apply`."
    )
    function.__signature__ = shared.replace(parameters=[*parameters, *own])  # type: ignore[attr-defined]
    return function


def _model(network: nn.Module | Model, example: Tensor | InputSize | int | str | None) -> Model:
    """Return a network as a model.

    Raises:
        UserError: a module without an example, or an example that is no size.
    """
    from paretune.core.model import Model
    from paretune.networks.network_files import copy_network, count

    if isinstance(network, Model):
        return network
    size = _size(example)
    copied = copy_network(network).cpu().eval()
    params, flops = count(copied, size)
    return Model(copied, None, size, params=params, flops=flops)


def _size(example: Tensor | InputSize | int | str | None) -> InputSize:
    """Return the input size that an example shows."""
    from paretune.core.types import InputSize

    if example is None:
        raise UserError("example: expected, an input of the network (1, 3, H, W) or its size, such as 192 or '192x144'")
    if isinstance(example, InputSize):
        return example
    if isinstance(example, (int, str)):
        try:
            return InputSize.parse(example)
        except ValueError as error:
            raise UserError(f"example: {error}") from error
    if example.ndim != 4 or example.shape[1] != 3:
        raise UserError(f"example: expected images (1, 3, H, W), got {tuple(example.shape)}")
    return InputSize(int(example.shape[3]), int(example.shape[2]))


def _context(
    detector: Detector, data: DataSource | Data | None, training: Training | Mapping[str, Any] | None, workdir: Path
) -> Context:
    """Return the network's family, its images and its training as what steps may use.

    Raises:
        UserError: the images or the settings are wrong.
    """
    from paretune.compression.base import Context
    from paretune.core.types import Data
    from paretune.core.yaml_document import validate
    from paretune.training.loop import pick_device
    from paretune.training.settings import Training

    named = None if data is None or isinstance(data, Data) else images_named(data)
    opened = data if isinstance(data, Data) else Data((), {}, "") if named is None else named[0].open(named[1])
    settings = validate(Training, written(training, "training")) if isinstance(training, Mapping) else training
    settings = settings or Training()
    return Context(
        detector=detector,
        data=opened,
        training=settings,
        workdir=workdir,
        device=pick_device(settings.device),
        dataset=None if named is None else named[0],
        cache=None if named is None else named[1],
    )
