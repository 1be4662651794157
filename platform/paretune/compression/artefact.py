"""Writing an artefact: the model at the end of a recipe, with all that is needed to use it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.detectors.base import Detector
from paretune.model import Model
from paretune.runtimes.base import Runtime
from paretune.runtimes.onnxruntime import part_file
from paretune.store import Artefact, new_folder, read_artefact, write_manifest
from paretune.structures import Thresholds


def write_artefact(
    folder: Path,
    model: Model,
    *,
    detector: Detector,
    runtime: Runtime,
    recipe_tree: Mapping[str, Any],
    classes: Sequence[str],
    thresholds: Thresholds = Thresholds(),  # noqa: B008 - frozen
) -> Artefact:
    """Write a model as an artefact, whole or not at all; an artefact that stands there is replaced.

    Returns:
        The artefact as it was read back.

    Raises:
        ValueError: the model is not what the runtime loads, or a weight is not finite.
    """
    from paretune.detectors.structure import save_network

    if model.format != runtime.accepts:
        raise ValueError(f"runtime {runtime.name!r} loads a {runtime.accepts} model, this one is {model.format}")
    with new_folder(folder) as draft:
        if model.file is not None:
            for part, file in zip(detector.part_names, model.files, strict=True):
                shutil.copyfile(file, draft / part_file(part))
        elif model.network is not None:
            save_network(model.network, draft)
        else:
            raise ValueError("the model has neither a network nor a file")
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
        )
        write_manifest(draft, written)
    return read_artefact(folder)
