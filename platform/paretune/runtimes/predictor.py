"""Predictor: a loaded artefact that turns an image into boxes, for evaluation and measurement alike."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from paretune import __version__
from paretune.core.errors import UserError, needed, not_installed, one_line
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
    """The three stages of one inference, separate functions so that they can be timed separately."""

    artefact: Artefact
    detector: Detector
    core: NetworkRunner

    @cached_property
    def preprocessing(self) -> Preprocess:
        """Preprocessing in the artefact's manifest; the detector's if an older Paretune wrote none."""
        written = self.artefact.preprocessing
        return self.detector.preprocess if written is None else Preprocess.parse(written)

    @property
    def facts(self) -> dict[str, str | int]:
        """Facts read back from the runtime: version, device, threads, precision."""
        return self.core.facts

    @property
    def most_boxes(self) -> int:
        """Return the largest number of boxes in an image; an image with as many may contain more objects."""
        return int(min(self.artefact.thresholds.detections, self.detector.most_boxes))

    def preprocess(self, image: Image) -> tuple[Floats, Placement]:
        """Return the network input (1, 3, H, W) float32 of an image (H, W, 3) uint8 RGB, and its placement."""
        planes, placement = self.preprocessing(image, self.artefact.input_size)
        return planes[None], placement

    def postprocess(self, raw: tuple[Floats, ...], placement: Placement) -> Detections:
        """Return the detections in the raw maps of one image, in pixels of the image."""
        artefact = self.artefact
        (detections,) = self.detector.decode(raw, artefact.input_size, artefact.thresholds)
        return Detections(placement.to_image(detections.boxes), detections.scores, detections.labels)

    def __call__(self, image: Image) -> Detections:
        """Return the detections in an image (H, W, 3) uint8 RGB."""
        batch, placement = self.preprocess(image)
        return self.postprocess(self.core(batch), placement)


def load_predictor(folder: Path, target: Target) -> Predictor:
    """Return the predictor of an artefact, loaded by its runtime with the target's threads.

    Raises:
        UserError: the artefact is damaged, its runtime is not installed or of a version that does not read it, or
            device, threads or precision are not the requested ones.
    """
    artefact, detector, runtime = _opened(folder)
    try:
        core = runtime.load(artefact, target)
    except UserError:
        raise
    except Exception as error:  # every library raises its own errors
        here = [(name, getattr(sys.modules.get(name), "__version__", "")) for name in runtime.libraries]
        versions = "".join(f" ({name} {version})" for name, version in here if version)
        reason = one_line(error)
        raise UserError(f"{folder}: {runtime.name} does not run it here{versions}: {reason}") from error
    return Predictor(artefact, detector, core)


def device_of(folder: Path) -> Device:
    """Return the device that an artefact's runtime needs.

    Raises:
        UserError: the folder has no artefact, or its runtime is unknown.
    """
    artefact = read_artefact(folder, files=False)
    runtime: Runtime = _plugin(artefact, "runtime", artefact.runtime, RUNTIMES)
    return runtime.own_device


def load_timed(folder: Path, target: Target) -> Predictor:
    """Return the predictor of an artefact whose operators are timed.

    Raises:
        NotImplementedError: the runtime does not time its operators.
    """
    artefact, detector, runtime = _opened(folder)
    return Predictor(artefact, detector, runtime.load_timed(artefact, target))


def check_loadable(folder: Path, target: Target) -> Artefact:
    """Return an artefact after the checks on its runtime and target that need no loading.

    Raises:
        UserError: the artefact is damaged, or its runtime is not installed or does not run on the target.
    """
    artefact, _, runtime = _opened(folder)
    if problem := runtime.unsupported_reason(target):
        raise UserError(f"{folder}: {problem}")
    return artefact


def _opened(folder: Path) -> tuple[Artefact, Detector, Runtime]:
    """Return an artefact with its detector and runtime.

    Raises:
        UserError: the artefact is damaged, this Paretune lacks its preprocessing, or its runtime is not installed.
    """
    artefact = read_artefact(folder)
    detector: Detector = _plugin(artefact, "detector", artefact.detector, DETECTORS)
    runtime: Runtime = _plugin(artefact, "runtime", artefact.runtime, RUNTIMES)
    if missing := [*runtime.missing, *not_installed(["cv2"])]:
        raise UserError(f"{folder}: runs on {runtime.name}, which needs {needed(missing)}")
    try:
        Preprocess.parse(artefact.preprocessing or detector.preprocess.tree())
    except (AttributeError, ValueError) as error:
        reason = one_line(error)
        problem = f"{folder / MANIFEST}: preprocesses images as this Paretune, {__version__}, does not"
        raise UserError(f"{problem} (a newer one made it): {reason}") from error
    return artefact, detector, runtime


def _plugin(artefact: Artefact, what: str, written: dict[str, Any], table: Registry[Any]) -> Any:
    """Return the plug-in that a manifest names.

    Raises:
        UserError: the plug-in is unknown, or does not have these fields.
    """
    try:
        return parse_plugin(written, table)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"{artefact.folder / MANIFEST}: {what}: {reasons}") from error
    except PydanticCustomError as error:
        raise UserError(f"{artefact.folder / MANIFEST}: {what}: {error.message()}") from error
