"""SSD300 at half its channels, of seeded random weights: latency and exactness. Its accuracy is not measured.

It cannot be trained from scratch on a CPU in any time worth the name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compressed import FOLDER, optimized, speedups
from figures import Figures
from library import NAME
from training import Case, trained

SLIM: dict[str, Any] = {"prune": {"ratio": 0.5, "round_to": 8}}
WAYS: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "library": ([], "eager"),
    "onnxruntime": ([], "onnxruntime"),
    "openvino": ([], "openvino"),
    "slim onnxruntime": ([SLIM], "onnxruntime"),
    "slim openvino": ([SLIM], "openvino"),
    "slim bfloat16 openvino": ([SLIM], {"openvino": {"precision": "bf16"}}),
    "slim INT8 onnxruntime": ([SLIM, {"quantize": {}}], "onnxruntime"),
    "slim INT8 openvino": ([SLIM, {"quantize": {"tool": "nncf"}}], "openvino"),
}
DENSE = 3
"""So many of them are not compressed."""


def network(classes: tuple[str, ...]) -> Path:
    """Write a network of random weights as a training leaves it; returns its folder."""
    import torch

    from paretune.detectors.ssd.detector import Ssd
    from paretune.networks.network_files import save_network

    folder, detector = FOLDER / "ssd300" / "random", Ssd(variant="ssd300_vgg16")
    if not (folder / "training.json").is_file():
        torch.manual_seed(0)
        save_network(detector.build(len(classes)).eval(), folder)
        told = {"detector": detector.named(), "input_size": "300", "classes": list(classes)}
        (folder / "training.json").write_text(json.dumps(told))
    return folder


def fill(case: Case, root: Path, figures: Figures) -> None:
    """Compress it; the photographs are those of another case."""
    source = trained(case, 0, root)
    start = network(tuple(source.facts["classes"]))
    folders = {way: FOLDER / "ssd300" / (NAME if way == "library" else way.replace(" ", "-")) for way in WAYS}
    for way, (steps, runtime) in WAYS.items():
        if reason := optimized(start, steps, runtime, folders[way], source.folder):
            raise RuntimeError(f"SSD300, {way}: {reason}")
    found = speedups(list(folders.values()), source.folder)
    ways = list(WAYS)
    for index, way in enumerate(ways[DENSE:], start=DENSE):
        dense = zip(ways[:DENSE], found[index][:DENSE], strict=True)
        told = ", ".join(f"{whole:.2f}x {name} ({core:.2f}x)" for name, (whole, core) in dense)
        print(f"SSD300, {way}: image to boxes (the network alone): {told}", flush=True)
    best = max(range(DENSE, len(ways)), key=lambda index: found[index][0][0])
    whole, core = found[best][0][0], min(core for _, core in found[best][1:DENSE])
    title = f"SSD300, {ways[best]}, accuracy not measured"
    figures.add(f"{title}: image to boxes, against the library in eager", whole, "x", at_least=12)
    figures.add(f"{title}: network, against the best dense fp32", core, "x", at_least=8)
    figures.more["ssd300"] = dict(zip(ways, found, strict=True))
