"""Predictor: a loaded artefact, from an image to boxes. What is evaluated is what is measured."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from paretune import __version__
from paretune.core.errors import UserError, needed, not_installed
from paretune.core.fields import PydanticCustomError, ValidationError
from paretune.core.registry import Registry
from paretune.core.spec import parse_plugin
from paretune.core.target import Device, Target
from paretune.core.types import Detections, Floats, Image
from paretune.data.preprocess import Placement, Preprocess
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.runtimes import RUNTIMES
from paretune.runtimes.base import NetworkRunner, Runtime
from paretune.storage.artefact import MANIFEST, Artefact, read_artefact


@dataclass(frozen=True)
class Predictor:
    """The three stages of one inference, callable apart so that they can be timed apart."""

    artefact: Artefact
    detector: Detector
    core: NetworkRunner

    @cached_property
    def preprocessing(self) -> Preprocess:
        """What the artefact tells, as it was evaluated; the detector's where an older Paretune told nothing."""
        told = self.artefact.preprocessing
        return self.detector.preprocess if told is None else Preprocess.parse(told)

    @property
    def facts(self) -> dict[str, str | int]:
        """What really runs, read back from the runtime."""
        return self.core.facts

    @property
    def most_boxes(self) -> int:
        """Return the most boxes that it finds in an image: an image with as many may hold more objects."""
        return int(min(self.artefact.thresholds.detections, self.detector.most_boxes))

    def preprocess(self, image: Image) -> tuple[Floats, Placement]:
        """Image (H, W, 3) uint8 RGB → network input (1, 3, H, W) float32, and where the image lies in it."""
        planes, placement = self.preprocessing(image, self.artefact.input_size)
        return planes[None], placement

    def postprocess(self, raw: tuple[Floats, ...], placement: Placement) -> Detections:
        """Raw maps of one image → detections in pixels of the image."""
        artefact = self.artefact
        (found,) = self.detector.decode(raw, artefact.input_size, artefact.thresholds)
        return Detections(placement.to_image(found.boxes), found.scores, found.labels)

    def __call__(self, image: Image) -> Detections:
        """Image → detections."""
        batch, placement = self.preprocess(image)
        return self.postprocess(self.core(batch), placement)


def load_predictor(folder: Path, target: Target) -> Predictor:
    """Load an artefact on the runtime it names, with the target's threads.

    Raises:
        UserError: the artefact is damaged, its runtime is not installed or of a version that does not read it, or
            what would really run is not what was asked for.
    """
    artefact, detector, runtime = _opened(folder)
    try:
        core = runtime.load(artefact, target)
    except UserError:
        raise
    except Exception as error:  # each library has errors of its own; artefacts travel, and no two machines are alike
        here = [(name, getattr(sys.modules.get(name), "__version__", "")) for name in runtime.libraries]
        versions = "".join(f" ({name} {version})" for name, version in here if version)
        said = " ".join(str(error).split())
        raise UserError(f"{folder}: {runtime.name} does not run it here{versions}: {said}") from error
    return Predictor(artefact, detector, core)


def device_of(folder: Path) -> Device:
    """Return the device that an artefact's runtime needs.

    Raises:
        UserError: no artefact there, or its runtime is unknown.
    """
    artefact = read_artefact(folder, files=False)
    runtime: Runtime = _plugin(artefact, "runtime", artefact.runtime, RUNTIMES)
    return runtime.own_device


def load_counted(folder: Path, target: Target) -> Predictor:
    """Load an artefact as ``load_predictor`` does; its core is a ``Counted`` one.

    Raises:
        NotImplementedError: the runtime does not tell what its operators cost.
    """
    artefact, detector, runtime = _opened(folder)
    return Predictor(artefact, detector, runtime.counted(artefact, target))


def check_loadable(folder: Path, target: Target) -> Artefact:
    """Read an artefact, and refuse what is known without loading it to run on no such target here.

    Raises:
        UserError: the artefact is damaged, or its runtime is not installed or does not run on the target.
    """
    artefact, _, runtime = _opened(folder)
    if problem := runtime.unsupported_reason(target):
        raise UserError(f"{folder}: {problem}")
    return artefact


def _opened(folder: Path) -> tuple[Artefact, Detector, Runtime]:
    """Read an artefact's manifest.

    Raises:
        UserError: the artefact is damaged, preprocesses as this Paretune does not, or its runtime is not installed.
    """
    artefact = read_artefact(folder)
    detector: Detector = _plugin(artefact, "detector", artefact.detector, DETECTORS)
    runtime: Runtime = _plugin(artefact, "runtime", artefact.runtime, RUNTIMES)
    if missing := [*runtime.missing, *not_installed(["cv2"])]:
        raise UserError(f"{folder}: runs on {runtime.name}, which needs {needed(missing)}")
    try:
        Preprocess.parse(artefact.preprocessing or detector.preprocess.tree())
    except (AttributeError, ValueError) as error:
        said = " ".join(str(error).split())
        told = f"{folder / MANIFEST}: preprocesses images as this Paretune, {__version__}, does not"
        raise UserError(f"{told} (a newer one made it): {said}") from error
    return artefact, detector, runtime


def _plugin(artefact: Artefact, what: str, written: dict[str, Any], table: Registry[Any]) -> Any:
    """Return the plug-in that a manifest names.

    Raises:
        UserError: there is none of that name, or with such fields.
    """
    try:
        return parse_plugin(written, table)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"{artefact.folder / MANIFEST}: {what}: {said}") from error
    except PydanticCustomError as error:
        said = error.message()
        raise UserError(f"{artefact.folder / MANIFEST}: {what}: {said}") from error
