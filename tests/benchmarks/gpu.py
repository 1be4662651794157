"""What a GPU makes of the networks: latency against eager in fp32 and in fp16 in one run, and the points of map.

The networks are those of `make bench NAME=training`; SSD300 has seeded random weights, so that its accuracy is not
measured. Without a GPU nothing is run, and the benchmark ends with 1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressed import detected, images_of, optimized, points
from figures import BENCH, Figures, parser_of, photographs
from ssd300 import network
from training import CASES, trained

FOLDER = BENCH / "gpu"
FAMILIES = ("voc", "ssd300", "ssd")
HALF: list[dict[str, Any]] = [{"quantize": {"scheme": "fp16"}}]
INT8: list[dict[str, Any]] = [{"quantize": {}}]
WAYS: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "eager fp32": ([], "eager"),
    "eager fp16": ([], {"eager": {"precision": "fp16"}}),
    "Inductor with CUDA graphs fp32": ([], "compiled"),
    "Inductor with CUDA graphs fp16": ([], {"compiled": {"precision": "fp16"}}),
    "ONNX Runtime CUDA fp32": ([], "onnxruntime"),
    "ONNX Runtime CUDA fp16": (HALF, "onnxruntime"),
    "ONNX Runtime TensorRT fp16": ([], {"onnxruntime": {"provider": "tensorrt", "precision": "fp16"}}),
    "ONNX Runtime TensorRT INT8": (INT8, {"onnxruntime": {"provider": "tensorrt", "precision": "fp16"}}),
    "TensorRT fp16": ([], {"tensorrt": {"precision": "fp16"}}),
    "TensorRT INT8": (INT8, {"tensorrt": {"precision": "fp16"}}),
}
"""What is measured → steps and runtime; the first two are what the others are compared with."""
LOST = 0.3
"""Points of map that half precision may cost on `val`, as for bfloat16 on a CPU."""


def made(family: str, root: Path) -> tuple[dict[str, Path], Path]:
    """Return what can be made of a family's network here, by title, and the training whose images are measured on."""
    case = next(case for case in CASES if case.job == family.replace("ssd300", "voc"))
    source = trained(case, 0, root)
    start = network(tuple(source.facts["classes"])) if family == "ssd300" else source.folder
    folders = {}
    for title, (steps, runtime) in WAYS.items():
        folder = FOLDER / family / title.replace(" ", "-")
        if reason := optimized(start, steps, runtime, folder, source.folder, device="cuda"):
            print(f"{family}, {title}: not made: {reason}", flush=True)
        else:
            folders[title] = folder
    return folders, source.folder


def fill(family: str, root: Path, figures: Figures) -> None:
    """Measure what loads here, interleaved in one run."""
    from paretune.core.errors import UserError
    from paretune.core.target import Target
    from paretune.profiling.latency.compare import compare
    from paretune.profiling.latency.shared_images import measuring_images

    target = Target(device="cuda")
    folders, source = made(family, root)
    data, found = images_of(source), dict[str, float]()
    for title, folder in folders.items():
        start = time.monotonic()
        try:
            pairs = detected(folder, data, ("val",), target)["val"]
        except UserError as error:
            print(f"{family}, {title}: not run: {error}", flush=True)
        else:
            found[title] = points(pairs, data.classes)
            print(f"{family}, {title}: loaded and evaluated in {time.monotonic() - start:.0f} s", flush=True)
    titles = list(found)
    if titles[:2] != list(WAYS)[:2] or len(titles) == 2:
        figures.add(f"{family}: networks that ran on the GPU", len(titles), at_least=3)
        return
    images = measuring_images(data.splits["val"])
    told = compare([folders[title] for title in titles], images, target, rounds=3)
    for note in told.notes:
        print(f"{family}: {note}", flush=True)
    rows: dict[str, dict[str, Any]] = {}
    for index, title in enumerate(titles):
        whole, core = (
            [1 / told.ratio(index, base, network=network).ratio for base in range(2)] for network in (False, True)
        )
        rows[title] = {"image to boxes": whole, "network": core, "map": found[title], "facts": dict(told.facts[index])}
        accuracy = "accuracy not measured" if family == "ssd300" else f"map {found[title]:.1f} on val"
        for name, pair in (("image to boxes", whole), ("network", core)):
            print(f"{family}, {title}: {name} {pair[0]:.2f}x eager fp32, {pair[1]:.2f}x eager fp16", flush=True)
        print(f"{family}, {title}: {accuracy}", flush=True)
    rest = titles[2:]
    best = max(rest, key=lambda title: rows[title]["network"][0])
    for base, title in enumerate(titles[:2]):
        figures.add(f"{family}, {best}: network, against {title}", rows[best]["network"][base], "x")
    halves = [title for title in titles if title.endswith("fp16")]
    if family != "ssd300":
        lost = max(found[titles[0]] - found[title] for title in halves)
        figures.add(f"{family}: points lost by half precision, the most of {len(halves)}", lost, at_most=LOST)
    figures.more[family] = rows


def main(given: Sequence[str] | None = None) -> int:
    """Measure each family on this machine's GPU."""
    parser = parser_of(__doc__)
    parser.add_argument("--family", action="append", choices=FAMILIES, help="take this one (default: all)")
    words = parser.parse_args(given)
    import torch

    if not torch.cuda.is_available():
        print("torch finds no GPU on this machine: nothing was measured", file=sys.stderr)
        return 1
    root, figures = photographs(), Figures("gpu")
    for family in words.family or FAMILIES:
        fill(family, root, figures)
    return figures.end(as_json=words.json)


if __name__ == "__main__":
    sys.exit(main())
