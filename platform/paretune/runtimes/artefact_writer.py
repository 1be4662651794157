"""Writing of an artefact: the model at the end of a recipe, with everything that is needed to use it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.model import Model
from paretune.core.types import Thresholds
from paretune.detectors.base import Detector
from paretune.runtimes.base import Runtime
from paretune.runtimes.onnx_session import part_file
from paretune.storage.artefact import NETWORK, Artefact, FloatNetworkInfo, facts_of, read_artefact, write_manifest
from paretune.storage.atomic_files import new_folder

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class FloatNetwork:
    """A network before export and quantization, from which further steps can start."""

    network: nn.Module
    """Float network on the CPU."""
    steps: tuple[dict[str, Any], ...]
    """Steps that made it, as a recipe writes them."""
    notes: tuple[str, ...]
    """Notes of these steps."""


def write_artefact(  # noqa: PLR0913 - the fields of a manifest
    folder: Path,
    model: Model,
    *,
    detector: Detector,
    runtime: Runtime,
    recipe_tree: Mapping[str, Any],
    classes: Sequence[str],
    thresholds: Thresholds = Thresholds(),  # noqa: B008 - frozen
    seed: int | None = None,
    before: FloatNetwork | None = None,
) -> Artefact:
    """Write a model as an artefact, completely or not at all, and return it; an existing artefact is replaced.

    Args:
        folder: of the artefact.
        model: with a network or with files.
        detector: of the network.
        runtime: runtime that will load it.
        recipe_tree: the recipe as plain data.
        classes: names of the classes.
        thresholds: of the postprocessing.
        seed: of the recipe's steps; None if they draw no random numbers.
        before: float network to keep beside the model, for further steps.

    Returns:
        The artefact, read back from disk.

    Raises:
        ValueError: the runtime loads another format, or a weight is not finite.
    """
    from paretune.networks.network_files import save_network

    if model.format != runtime.accepts:
        raise ValueError(f"runtime {runtime.name!r} loads a {runtime.accepts} model, this one is {model.format}")
    with new_folder(folder, replace=True) as draft:
        if model.file is not None:
            for part, file in zip(detector.part_names, model.files, strict=True):
                shutil.copyfile(file, draft / part_file(part, model.format))
        elif model.network is not None:
            save_network(model.network, draft)
        else:
            raise ValueError("the model has neither a network nor a file")
        kept = None
        if before is not None:
            save_network(before.network, draft / NETWORK)
            kept = FloatNetworkInfo(before.steps, before.notes, facts_of(draft / NETWORK))
        written = Artefact(
            folder=draft,
            format=model.format,
            detector=detector.named(),
            runtime=runtime.named(),
            recipe=dict(recipe_tree),
            classes=tuple(classes),
            input_size=model.input_size,
            thresholds=thresholds,
            params=model.params,
            flops=model.flops,
            notes=model.notes,
            preprocessing=detector.preprocess.tree(),
            seed=seed,
            calibration=None if model.calibration is None else dict(model.calibration),
            device=runtime.own_device,
            kept=kept,
        )
        write_manifest(draft, written)
    return read_artefact(folder)
