"""torchvision's detectors with seeded weights, and ours with their state dicts: the same detections of photographs.

20 photographs: 10 of 640 x 480 pixels, 10 of 378 x 504. Faster R-CNN is asked at the input size that torchvision's own
transform makes of each kind, and, without a promise, at one that has room for both. ``--part NAME`` does one network.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from figures import ROOT, Figures, parser_of, photographs

sys.path.insert(0, str(ROOT / "tests"))

from paretune.core.spec import parse_plugin
from paretune.core.types import Image, InputSize
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.detectors.torchvision_sizes import padded
from tests_support_torchvision import Kept, found_by, of_size, off, predictor, saved, seeded, tensors

EACH = 10
KINDS = {"bccd": (640, 480), "playing_cards": (378, 504)}
BOX, SCORE = 0.01, 1e-4
"""Pixels of 640, and scores, by which a detection may differ."""


@dataclass(frozen=True)
class Case:
    """One of torchvision's models, and the same as a detector of ours."""

    model: str
    family: str
    fields: dict[str, Any] = field(default_factory=dict)
    size: str | None = None
    """Input size of all pictures; None where each kind has its own."""
    room: str | None = None
    """An input size with room for every kind."""
    kept: Kept = Kept()  # noqa: RUF009 - frozen
    runtimes: tuple[str, ...] = ("eager", "onnxruntime")
    each: int = EACH
    classes: int = 3
    """Different ones that are to be found, at least."""

    def detector(self, **more: Any) -> Detector:
        """Return ours."""
        variant = self.model.removeprefix("fasterrcnn_")
        found: Detector = parse_plugin({self.family: {"variant": variant, **self.fields, **more}}, DETECTORS)
        return found


CASES = {
    "ssdlite": Case("ssdlite320_mobilenet_v3_large", "ssd", size="320", kept=Kept(0.05, 0.55, 300)),
    "ssd300": Case("ssd300_vgg16", "ssd", size="300", kept=Kept(0.05, 0.45, 200)),
    "faster_rcnn_320": Case("fasterrcnn_mobilenet_v3_large_320_fpn", "faster_rcnn", {"proposals": 150}, room="448"),
    "faster_rcnn_800": Case(
        "fasterrcnn_mobilenet_v3_large_fpn", "faster_rcnn", {"proposals": 1000}, runtimes=("eager",), each=2, classes=1
    ),
}
"""Thresholds, and ``proposals``, are torchvision's own defaults but for SSD's scores, of which seeded weights have
thousands at its 0.01 and 0.001. At 800 pixels two photographs of each kind, in which these weights see one class."""


def main() -> int:
    """Compare all, with 91 outputs and with 4."""
    parser = parser_of(__doc__)
    parser.add_argument("--part", choices=CASES, help="one network only")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    given = parser.parse_args()
    figures, root = Figures("weights"), photographs()
    kinds = {name: of_size(root / name, *sides, EACH) for name, sides in KINDS.items()}
    for name in [given.part] if given.part else CASES:
        for outputs in (91, 4):
            with tempfile.TemporaryDirectory() as place:
                compare(name, outputs, kinds, Path(place), figures, given.seed)
    shrink(kinds, figures)
    return figures.end(as_json=given.json)


def compare(name: str, outputs: int, kinds: dict[str, list[Image]], folder: Path, figures: Figures, seed: int) -> None:
    """Load a seeded state dict into both, and compare what they find."""
    case = CASES[name]
    groups = {kind: images[: case.each] for kind, images in kinds.items()}
    everything = [image for images in groups.values() for image in images]
    reference = seeded(
        case.model, outputs, [images[n] for n in range(2) for images in groups.values()], seed, kept=case.kept
    )
    wanted = dict(zip(map(id, everything), found_by(reference, everything), strict=True))
    detector = case.detector(weights=saved(reference, folder / "mine.pth"))
    classes = [f"class {number}" for number in range(outputs - 1)]
    asked = [(case.size, everything)] if case.size else [
        (str(padded(detector.preprocess, *KINDS[kind])), images) for kind, images in groups.items()
    ]  # fmt: skip
    title, told = f"{name}, {outputs} outputs", {}
    for runtime in case.runtimes:
        ours, images = [], []
        for number, (size, part) in enumerate(asked):
            loaded = predictor(detector, classes, size, folder / f"{runtime}-{number}", runtime, case.kept.ours())
            ours += [loaded(image) for image in part]
            images += part
        told[runtime] = off(ours, [wanted[id(image)] for image in images], images, case.kept)
    expected = [wanted[id(image)] for image in everything]
    told["last bit"] = off(found_by(reference, everything, last_bit=True), expected, everything, case.kept)
    if case.room:
        loaded = predictor(detector, classes, case.room, folder / "room", thresholds=case.kept.ours())
        told["room"] = off([loaded(image) for image in everything], expected, everything, case.kept)
    eager, where = told["eager"], " and ".join(size for size, _ in asked)
    figures.add(f"{title}, at {where}: detections of torchvision", eager.detections, at_least=20 * len(asked))
    figures.add(f"{title}: their classes", eager.classes, at_least=case.classes)
    for way, said in (("eager", "eager"), ("onnxruntime", "ONNX Runtime")):
        if found := told.get(way):
            figures.add(f"{title}, {said}: missing or added", found.missing + found.added, at_most=0)
            figures.add(f"{title}, {said}: at the cut, where rounding decides", found.undecided)
            figures.add(f"{title}, {said}: a box differs by at most", found.box, "px of 640", at_most=BOX)
            figures.add(f"{title}, {said}: a score differs by at most", found.score, at_most=SCORE)
    noise, said = told["last bit"], "torchvision, pictures' last bit changed"
    figures.add(f"{title}, {said}: missing or added", noise.missing + noise.added)
    figures.add(f"{title}, {said}: box", noise.box, "px of 640")
    figures.add(f"{title}, {said}: score", noise.score)
    if case.room:
        there = 100 * (1 - told["room"].missing / eager.detections)
        figures.add(f"{title}, with room for both at {case.room}: within a pixel", there, "%")
    figures.more[title] = {way: vars(found) for way, found in told.items()}


def shrink(kinds: dict[str, list[Image]], figures: Figures) -> None:
    """Time the preprocessing beside our own and torchvision's, on photographs of 640 x 480, in turns."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    case, size = CASES["faster_rcnn_320"], InputSize(448, 320)
    theirs = GeneralizedRCNNTransform(320, 640, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).eval()
    as_torchvision, own = (case.detector(transform=kind).preprocess for kind in ("torchvision", "own"))
    ways: dict[str, Callable[[Image], Any]] = {
        "ours as torchvision": lambda image: as_torchvision(image, size),
        "own": lambda image: own(image, size),
        "torchvision": lambda image: theirs(tensors([image])),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(10):
        for image in kinds["bccd"]:
            for way, run in ways.items():
                start = time.perf_counter()
                run(image)
                times[way].append(1000 * (time.perf_counter() - start))
    for way, taken in times.items():
        figures.add(f"preprocessing of 640 x 480 to 448x320, {way}", _median(taken), "ms")


def _median(values: Sequence[float]) -> float:
    return float(median(values))


if __name__ == "__main__":
    sys.exit(main())
