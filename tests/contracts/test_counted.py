"""Operators counted one by one, in every runtime: a new row in the table is tested without another line here."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paretune.compression.export import Export
from paretune.compression.quantize.step import Quantize
from paretune.core.target import Target
from paretune.core.types import Floats, InputSize
from paretune.detectors import DETECTORS
from paretune.runtimes import RUNTIMES
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.base import BETWEEN, Operator, Runtime
from paretune.runtimes.predictor import load_predictor, load_timed
from tests_support_compression import SIZE, MixedDetector, context, model

SLOW = {"compiled"}
"""Runtimes that take their time to load anything."""
FUSED = {"compiled"}
"""Runtimes that write kernels of their own, which span modules; a trace holds those, not modules."""
UNCOUNTED = {"tensorrt"}
CONVOLUTIONS = {"stem", "body.0", "body.2", "body.4", "box", "score"}
PLANTED = "body.2"
INFERENCES = 200
"""So many that a core taken away in the wrong layer is less than the planted one takes."""
"""A convolution that has more to do than all the others together."""


class Network(nn.Module):
    """Convolutions with and without activations; a sum and a concatenation, which belong to the network itself."""

    def __init__(self) -> None:
        super().__init__()
        wide = nn.Conv2d(256, 256, 3, padding=1)
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.body = nn.Sequential(nn.Conv2d(8, 256, 1), nn.SiLU(), wide, nn.ReLU(), nn.Conv2d(256, 8, 1))
        self.box = nn.Conv2d(16, 4, 1)
        self.score = nn.Conv2d(16, 2, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.stem(images))
        x = torch.cat([x, x + self.body(x)], 1)
        return self.box(x), self.score(x)


class Planted(MixedDetector):
    name: ClassVar[str] = "planted"

    def build(self, num_classes: int) -> nn.Module:
        return Network()


class First(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        x = torch.relu(self.network.stem(images))
        return (torch.cat([x, x + self.network.body(x)], 1),)


class Second(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.heads = nn.ModuleList([network.box, network.score])

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        return tuple(head(features) for head in self.heads)


class TwoParts(Planted):
    """The same network in two files, with work on the host between them."""

    name: ClassVar[str] = "two_parts"
    part_names: ClassVar[tuple[str, ...]] = ("core", "heads")

    def part_outputs(self, part: str) -> tuple[str, ...]:
        return ("maps",) if part == "core" else ("box", "score")

    def part_modules(self, network: nn.Module) -> dict[str, nn.Module]:
        assert isinstance(network, Network)
        return {"core": First(network), "heads": Second(network)}

    def run(self, parts: Any, batch: Floats, size: InputSize) -> tuple[Floats, ...]:
        (features,) = parts["core"](batch)
        time.sleep(2e-3)
        return tuple(parts["heads"](features))


ROWS = [
    pytest.param((name, kind), id=f"{name}-{kind}", marks=[pytest.mark.timeout(240)] if name in SLOW else [])
    for name in RUNTIMES.names
    for kind in ("fp32", "int8")
    if name not in UNCOUNTED and (name not in SLOW or kind == "fp32")
]
pytestmark = pytest.mark.slow


def runtime_of(name: str) -> Runtime:
    cls = RUNTIMES.load(name)
    for library in cls.libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    return cls()


def made_for(runtime: Runtime, detector: MixedDetector, kind: str, folder: Path) -> Path:
    """Make an artefact as a recipe would, and return its folder."""
    given, place = model(detector), context(folder / "work", detector)
    if runtime.accepts == "onnx":
        given = Export().apply(given, place)
    if kind == "int8":
        tool = "nncf" if runtime.name == "openvino" else "onnxruntime"
        given = Quantize(tool=tool, images=8).apply(given, place)
    artefact = folder / "artefact"
    write_artefact(artefact, given, detector=detector, runtime=runtime, recipe_tree={}, classes=("disc", "bar"))
    return artefact


def batches(count: int) -> list[Floats]:
    random = np.random.default_rng(0)
    return [random.random((1, 3, SIZE.height, SIZE.width), np.float32) for _ in range(count)]


@pytest.fixture(scope="module", params=ROWS)
def row(request: Any) -> tuple[Runtime, str]:
    name, kind = request.param
    return runtime_of(name), kind


@pytest.fixture(scope="module")
def counted(row: tuple[Runtime, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a runtime tells of the planted network: operators, mean wall time in ms, trace, and outputs beside plain."""
    runtime, kind = row
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DETECTORS.rows, "planted", f"{__name__}:Planted")
        folder = tmp_path_factory.mktemp("counted")
        artefact = made_for(runtime, Planted(), kind, folder)
        plain, core = (load(artefact, Target()).core for load in (load_predictor, load_timed))
    pairs = [(plain(batch), core(batch)) for batch in batches(3)]
    many = batches(INFERENCES)
    core.reset()
    start = time.perf_counter()
    for batch in many:
        core(batch)
    wall = (time.perf_counter() - start) / INFERENCES * 1e3
    operators = core.operators()
    file = folder / "trace.json"
    return operators, wall, json.loads(file.read_text()) if core.trace(file) else None, pairs, (plain, core)


def modules(operators: Sequence[Operator], word: str = "conv") -> list[str | None]:
    return [one.module for one in operators if word in one.kind.lower()]


def test_the_operators_explain_the_time(counted: Any) -> None:
    operators, wall, *_ = counted
    assert 0.3 < sum(one.ms for one in operators) / wall < 1.2
    assert [one.ms for one in operators] == sorted((one.ms for one in operators), reverse=True)
    assert all(one.ms >= 0 and one.name and one.kind for one in operators)
    assert {one.part for one in operators} == {"core"}


def test_every_convolution_is_attributed_to_its_own_module(counted: Any, row: tuple[Runtime, str]) -> None:
    found = modules(counted[0])
    if row[0].name in FUSED:  # kernels that prepare weights or inputs are called after convolutions too
        found = [module for module in found if module is not None]
    assert sorted(map(str, found)) == sorted(CONVOLUTIONS)


def test_the_layer_with_most_to_do_comes_first(counted: Any, row: tuple[Runtime, str]) -> None:
    first = counted[0][0]
    assert "conv" in first.kind.lower()
    assert first.module == PLANTED


def test_counting_changes_no_output(counted: Any) -> None:
    for plain, watched in counted[3]:
        for one, other in zip(plain, watched, strict=True):
            np.testing.assert_array_equal(one, other)
    plain, core = counted[4]
    assert core.facts == plain.facts
    assert list(core.parts) == list(plain.parts)


def test_a_trace_holds_the_modules(counted: Any, row: tuple[Runtime, str]) -> None:
    if row[0].accepts != "torch":
        assert counted[2] is None
        return
    names = [event.get("name", "") for event in counted[2]["traceEvents"]]
    if row[0].name not in FUSED:
        assert names.count(f"paretune module {PLANTED}") == INFERENCES  # what ran before the reset is forgotten


@pytest.mark.parametrize("name", [name for name in RUNTIMES.names if name not in SLOW | UNCOUNTED])
def test_parts_are_told_apart_and_what_lies_between(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = runtime_of(name)
    monkeypatch.setitem(DETECTORS.rows, "two_parts", f"{__name__}:TwoParts")
    core = load_timed(made_for(runtime, TwoParts(), "fp32", tmp_path), Target()).core
    for batch in batches(3):
        core(batch)
    core.reset()
    for batch in batches(10):
        core(batch)
    operators = core.operators()
    convolutions = {one.module: one.part for one in operators if "conv" in one.kind.lower()}
    assert convolutions == {name: "heads" if name in {"box", "score"} else "core" for name in CONVOLUTIONS}
    if runtime.accepts == "onnx":  # eager runs its network as a whole
        assert sum(one.ms for one in operators if one.part == BETWEEN) >= 2


def test_a_runtime_that_counts_nothing_says_so() -> None:
    runtime = RUNTIMES.load("tensorrt")()
    with pytest.raises(NotImplementedError, match="not timed one by one"):
        runtime.load_timed(None, Target(device="cuda"))  # type: ignore[arg-type]
