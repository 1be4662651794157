"""Messages of networks, checkpoints and artefacts on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from messages.provoke import case, cases
from paretune.detectors.yolox.detector import Yolo
from paretune.networks.layer_chain import LONGEST, Chain
from paretune.networks.network_files import STRUCTURE, WEIGHTS, load_network, save_network
from paretune.networks.replacement_layers import made_of
from paretune.storage.artefact import MANIFEST, read_artefact
from tests_support_advising import artefact_in_a_training

TINY = Yolo(width=0.0625, depthwise=False)
CHAINED = "backbone.backbone.stem.conv.conv"
CONV = Chain(nn.Conv2d(12, 5, 1)).fields()["layers"][0]


def structure(change: dict[str, Any] | None = None, detector: Yolo = TINY, **replaced: Any) -> None:
    """Load a network whose file says something else of a layer, or of what stands in its place."""
    save_network(TINY.build(3), Path())
    body = json.loads(Path(STRUCTURE).read_text())
    body["layers"][CHAINED].update(change or {})
    if replaced:
        body["replaced"] = {replaced.pop("place", CHAINED): {"kind": "chain", **replaced}}
    Path(STRUCTURE).write_text(json.dumps(body))
    load_network(detector, 3, Path())


case("network: another number of channels", structure, {"out_channels": 6})
case("network: a negative number of channels", structure, {"out_channels": -4})
case("network: channels as a text", structure, {"out_channels": "16"})
case("network: another detector", structure, detector=Yolo(width=0.0625))
case("network: another depth", structure, detector=Yolo(width=0.0625, depthwise=False, depth=1.0))
case("network: a chain in place of nothing", structure, place="backbone.nowhere", layers=[CONV])
NONSENSE = {
    "a negative number": {"layers": [{**CONV, "conv2d": [12, -5]}]},
    "an immense number": {"layers": [{**CONV, "conv2d": [12, 10**12]}]},
    "beyond 64 bits": {"layers": [{**CONV, "conv2d": [10**30, 5]}]},
    "a fraction": {"layers": [{**CONV, "kernel_size": [1.5, 1]}]},
    "a truth": {"layers": [{**CONV, "stride": [True, 1]}]},
    "no step": {"layers": [{**CONV, "stride": [0, 1]}]},
    "a negative padding": {"layers": [{**CONV, "padding": [-1, 0]}]},
    "one number of two": {"layers": [{**CONV, "dilation": [1]}]},
    "groups that do not divide": {"layers": [{**CONV, "groups": 5}]},
    "a bias that is a text": {"layers": [{**CONV, "bias": "yes"}]},
    "a missing field": {"layers": [{key: CONV[key] for key in CONV if key != "padding"}]},
    "an unknown layer": {"layers": [{"lstm": [3, 3], "bias": True}]},
    "an unknown kind": {"kind": "rope", "layers": [CONV]},
    "an unknown kind inside": {"layers": [{"kind": "os.system"}]},
    "no kind": {"kind": None, "layers": [CONV]},
    "no layers": {"layers": []},
    "too many layers": {"layers": [CONV] * (LONGEST + 1)},
    "layers that are a number": {"layers": 5},
    "layers that are words": {"layers": ["conv2d"]},
}
"""Fields of a chain that no network has."""
for name, body in NONSENSE.items():
    case(f"layers of a chain: {name}", made_of, {"kind": "chain", **body})
case("layers of a chain: a norm", Chain(nn.BatchNorm2d(3)).fields)


def damaged(name: str) -> None:
    save_network(TINY.build(3), Path())
    Path(name).write_bytes(Path(name).read_bytes()[:-20])
    load_network(TINY, 3, Path())


cases("network", damaged, {"weights that are cut off": (WEIGHTS,), "a structure that is cut off": (STRUCTURE,)})
case("network: none", lambda: load_network(TINY, 3, Path()))


def artefact(text: str | None = None, **fields: Any) -> None:
    file = artefact_in_a_training(Path("mine")).folder / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}) if text is None else text)
    read_artefact(file.parent)


case("artefact: a manifest that was edited", artefact, seed=77)
case("artefact: a manifest that is no JSON", artefact, "{")
case("artefact: no manifest", lambda: read_artefact(Path("nowhere")))


def checkpoint(content: Any, **fields: Any) -> None:
    if isinstance(content, bytes):
        Path("mine.pth").write_bytes(content)
    elif content is not None:
        torch.save(content, "mine.pth")
    Yolo(weights="mine.pth", **fields).begin(80)


cases(
    "checkpoint",
    checkpoint,
    {
        "no file": (None,),
        "a text": (b"not a checkpoint",),
        "a list": ([1, 2],),
        "a whole network": (nn.Conv2d(1, 1, 1),),
        "numbers": ({"model": {"head.weight": 1}},),
        "nothing under a known name": ({"optimizer": {"state": {}}, "epoch": 3},),
        "another network": ({"model": {"fc.weight": torch.zeros(1)}},),
    },
)
case("checkpoint: another file than its hash", checkpoint, b"weights", sha256="0" * 64)
