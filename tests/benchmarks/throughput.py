"""Training in images/s, side by side: torchvision's recipe for detection, and the official YOLOX code.

Same photographs, batch, input size, loss, optimizer, mirroring, one thread of torch and one reader each; sides take
turns, an epoch each, so that ratios are of neighbours in time. A third side, ours in bfloat16, takes part where the
CPU computes it natively: elsewhere it is emulated, and ``amp: auto`` would not take it. The other programs are looked
for in the folder that PARETUNE_PEERS names:

    git clone --depth 1 --branch v0.21.0 https://github.com/pytorch/vision
    git clone --depth 1 https://github.com/Megvii-BaseDetection/YOLOX
    pip install loguru tabulate psutil
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from figures import BENCH, Figures, arguments, photographs
from throughput_side import Work

from paretune.training.mixed_precision import native_bfloat16

ROUNDS = 5
SIDE = Path(__file__).with_name("throughput_side.py")


@dataclass(frozen=True)
class Case:
    """One network, and who else trains it."""

    name: str
    peer: str
    detector: str
    variant: str
    size: str
    batch: int
    images: int
    """In an epoch."""


CASES = (
    Case("YOLOX nano", "yolox", "yolo", "nano", "416x416", 8, 96),
    Case("SSDLite", "torchvision", "ssd", "ssdlite320_mobilenet_v3_large", "320x320", 8, 96),
    Case("Faster R-CNN", "torchvision", "faster_rcnn", "mobilenet_v3_large_320_fpn", "448x320", 4, 24),
)


def peers() -> Path:
    """Return the folder of the other programs; without them the benchmark ends with 1."""
    folder = Path(os.environ.get("PARETUNE_PEERS") or "peers-not-given")
    wanted = [folder / "vision" / "references" / "detection" / "engine.py", folder / "YOLOX" / "yolox"]
    if missing := [str(path) for path in wanted if not path.exists()]:
        print(f"PARETUNE_PEERS: no {', '.join(missing)}\n{__doc__}", file=sys.stderr)
        sys.exit(1)
    return folder


def coco_folder(source: Path, images: int) -> Path:
    """Make a folder in COCO's official layout of the first blood-cell photographs whose boxes all have an area."""
    folder = BENCH / "throughput" / f"coco-{images}"
    table = json.loads((source / "bccd" / "derived_coco" / "train.json").read_text())
    empty = {entry["image_id"] for entry in table["annotations"] if min(entry["bbox"][2:]) <= 0}
    chosen = [entry for entry in table["images"] if entry["id"] not in empty][: images + 4]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, part in (("train", chosen[:images]), ("val", chosen[images:])):
        place = folder / f"{split}2017"
        place.mkdir(exist_ok=True)
        for entry in part:
            link = place / Path(entry["file_name"]).name
            if not link.exists():
                link.symlink_to((source / "bccd" / entry["file_name"]).resolve())
        ids = {entry["id"] for entry in part}
        named = [{**entry, "file_name": Path(entry["file_name"]).name} for entry in part]
        boxes = [entry for entry in table["annotations"] if entry["image_id"] in ids]
        text = json.dumps({"images": named, "annotations": boxes, "categories": table["categories"]})
        (folder / "annotations" / f"instances_{split}2017.json").write_text(text)
    return folder


class Side:
    """A process that trains when it is told to."""

    def __init__(self, name: str, work: Work, log: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(SIDE), name, json.dumps(asdict(work))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self.log = log
        self._answer()

    def _answer(self) -> dict[str, float]:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended: see {self.log}")
        return json.loads(line)

    def epoch(self) -> float:
        """Let it train one epoch; return images/s."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        told = self._answer()
        return told["images"] / told["seconds"]

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def measured(case: Case, work: Work) -> dict[str, list[float]]:
    """Return images/s of every side and epoch; the first epoch is the one that decodes and warms up."""
    speeds: dict[str, list[float]] = {}
    programs = [("ours", "ours", work), (case.peer, case.peer, work)]
    programs += [("bf16", "ours", replace(work, amp=True))] if native_bfloat16("cpu") else []
    with ExitStack() as stack:
        sides = {}
        for name, program, told in programs:
            sides[name] = Side(program, told, BENCH / "throughput" / f"{case.detector}-{name}.log")
            stack.callback(sides[name].close)
            speeds[name] = []
        for number in range(1 + ROUNDS):
            for name, side in sides.items():
                speeds[name].append(side.epoch())
            line = ", ".join(f"{name} {values[-1]:.1f}" for name, values in speeds.items())
            print(f"{case.name}, epoch {number}: images/s {line}", flush=True)
    return speeds


def main() -> int:
    """Measure every network, and print ratios of neighbouring epochs."""
    given = arguments(__doc__)
    source, others, figures = photographs(), peers(), Figures("throughput")
    for case in CASES:
        folder = coco_folder(source, case.images)
        work = Work(case.detector, case.variant, case.size, case.batch, str(folder), str(others))
        speeds = measured(case, work)
        base = speeds[case.peer][1:]
        for name in speeds:
            title = {"ours": "ours, float32", "bf16": "ours, bfloat16"}.get(name, f"{name}'s own")
            figures.add(f"{case.name}, {title}", median(speeds[name][1:]), "images/s")
        if "bf16" not in speeds:
            figures.add(f"{case.name}: bfloat16 (this CPU would have to emulate it)", None)
        for name in speeds.keys() - {case.peer}:
            wanted = {"at_least": 1.0} if name == "ours" else {}
            ratios = [one / other for one, other in zip(speeds[name][1:], base, strict=True)]
            label = "same precision" if name == "ours" else "bfloat16"
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            figures.add(f"{case.name}: times as fast, {label} ({spread})", median(ratios), "x", **wanted)
        first = speeds["ours"][0] / speeds[case.peer][0]
        figures.add(f"{case.name}: the same of the first epoch, which decodes and warms up", first, "x")
        figures.more[case.name] = speeds
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
