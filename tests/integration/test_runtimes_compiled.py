"""Compiled by TorchInductor: the same numbers as eager, one program for each part, kept for the next process."""

from __future__ import annotations

import importlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from paretune.compression.quantize.torch_int8 import predictors, quantize_network
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import Floats, InputSize
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.yolox.detector import Yolo
from paretune.runtimes import aot_cache_key as ahead_key
from paretune.runtimes import aot_program as ahead
from paretune.runtimes.aot_cache_key import key_of
from paretune.runtimes.aot_program import AotProgram
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.base import NetworkRunner
from paretune.runtimes.compiled import Compiled
from paretune.runtimes.eager import ArrayConversion, Eager, EagerPrecision, load_for_inference
from paretune.storage.atomic_files import new_folder
from paretune.system import machine_cache as caching
from tests_support_profiling import FAKE_ROW, FakeDetector

SIZE = InputSize(16, 12)


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DETECTORS.rows, "fake", FAKE_ROW)


def batch_of(size: InputSize, bright: float = 1.0) -> Floats:
    return np.random.default_rng(0).random((1, 3, size.height, size.width), np.float32) * np.float32(bright)


def loaded(folder: Path, network: nn.Module, detector: Detector, size: InputSize, runtime: Any) -> NetworkRunner:
    artefact = write_artefact(
        folder, Model(network, None, size), detector=detector, runtime=runtime, recipe_tree={}, classes=("a", "b")
    )
    return runtime.load(artefact, Target())


def test_without_a_compiler_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        UserError, match=r"needs a C\+\+ compiler, and there is no 'no-such-compiler' here: install g\+\+"
    ):
        loaded(tmp_path / "artefact", FakeDetector().build(2).eval(), FakeDetector(), SIZE, Compiled())


@pytest.mark.parametrize("command", ["no-such-compiler", "", "no-such-cache g++", "{there}", "{there} -v"])
def test_a_compiler_is_missing_where_torch_finds_none(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own search is the oracle; it runs what it finds."""
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    (there := tmp_path / "our-c++").write_text("#!/bin/sh\n")
    there.chmod(0o700)
    monkeypatch.setenv("CXX", command.format(there=there))
    try:
        cpp_builder.cpp_compiler_search.__wrapped__((os.environ["CXX"],))
        found = True
    except InvalidCxxCompiler:
        found = False
    assert found == ("{there}" in command)
    assert (Compiled().unsupported_reason(Target()) is None) == found


@pytest.mark.parametrize(
    ("there", "named", "told"),
    [
        ([], None, "there is no 'gcc' or 'clang' here: install gcc, or name another in the environment variable CC,"),
        (["gcc"], None, None),
        (["clang"], None, None),
        (["gcc"], "no-such-compiler", "there is no 'no-such-compiler' here"),
        (["gcc"], "gcc -v", "there is no 'gcc -v' here"),
        (["gcc"], "", "the environment variable CC is empty"),
        (["icx"], "icx", None),
    ],
)
def test_a_gpu_needs_the_c_compiler_that_triton_finds(
    there: list[str], named: str | None, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton's own search is the oracle; it runs what it finds, as one word."""
    build = pytest.importorskip("triton.runtime.build")
    for name in there:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delenv("CC", raising=False)
    if named is not None:
        monkeypatch.setenv("CC", named)
    try:
        found = build._find_compiler.__wrapped__("c")
    except RuntimeError:
        found = ""
    assert (shutil.which(found) is None) == (told is not None)
    problem = Compiled().unsupported_reason(Target(device="cuda"))
    assert problem is None if told is None else told in str(problem)


def test_the_folder_of_compiled_programs_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = caching.private_folder("compiled")
    assert folder == caching.private_folder("compiled")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    monkeypatch.setattr(caching.os, "getuid", lambda: os.geteuid() + 1)
    (tmp_path / f"paretune-compiled-{os.geteuid() + 1}").mkdir()
    with pytest.raises(RuntimeError, match="belongs to another user"):
        caching.private_folder("compiled")


def test_a_program_that_is_dropped_or_broken_at_any_moment_is_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled programs are files that say so; others drop or break them as soon as they are there."""
    monkeypatch.setattr(ahead, "private_folder", lambda _: tmp_path)
    harm, compiled = list[Callable[[Path], object]](), list[Path]()

    def compiles(_: AotProgram, images: torch.Tensor, folder: Path) -> None:
        compiled.append(folder)
        with new_folder(folder) as draft:
            (draft / "whole").write_text("")
        if harm:
            harm.pop()(folder)

    def opens(_: AotProgram, folder: Path) -> Any:
        if not (folder / "whole").is_file():
            raise RuntimeError("not whole")
        return lambda given: given

    monkeypatch.setattr(AotProgram, "_compile", compiles)
    monkeypatch.setattr(AotProgram, "_opened", opens)

    def run() -> int:
        before = len(compiled)
        AotProgram(nn.Identity(), ArrayConversion("cpu", "fp32"), "a key")(batch_of(SIZE))
        return len(compiled) - before

    assert (run(), run()) == (1, 0)
    (compiled[0] / "whole").unlink()
    assert run() == 1
    shutil.rmtree(compiled[0])
    harm += [shutil.rmtree, lambda folder: (folder / "whole").unlink()]
    assert run() == 3
    harm += [shutil.rmtree] * 3
    shutil.rmtree(compiled[0])
    with pytest.raises(RuntimeError, match="not whole"):  # said, not tried for ever
        run()
    program = compiled[0].with_name("old")
    program.mkdir()
    (program / "much").write_bytes(bytes(1000))
    os.utime(program, (0, 0))
    monkeypatch.setattr(caching, "LIMIT", 100)
    assert run() == 1
    assert [path.name for path in tmp_path.iterdir()] == [compiled[0].name]


def test_what_is_not_one_graph_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Choosing(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (x + 1 if x.sum() > 0 else x,)

    monkeypatch.setattr(ahead, "private_folder", lambda _: tmp_path)
    with pytest.raises(RuntimeError, match="data-dependent"):
        AotProgram(Choosing().eval(), ArrayConversion("cpu", "fp32"), "choosing")(batch_of(SIZE))
    assert list(tmp_path.iterdir()) == []


def test_a_program_is_known_by_weights_form_and_part(tmp_path: Path) -> None:
    folders, detector, network = list[Path](), FakeDetector(), nn.Identity()
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        folders.append(tmp_path / str(len(folders)))
        loaded(folders[-1], FakeDetector().build(2).eval(), FakeDetector(), SIZE, Eager())
    first, again, other = (key_of(folder, detector, "core", network) for folder in folders)
    assert first == again != other
    assert len({first, key_of(folders[0], detector, "head", network), key_of(folders[0], Yolo(), "core", network)}) == 3


MINE = """
from torch import nn
from mine_of_a_test.helping import half

class Network(nn.Module):
    def forward(self, x):
        return half(x)
"""


def test_a_program_is_known_by_the_code_of_a_network_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights, the class and its file stay; what it calls stands in another one."""
    package = tmp_path / "mine_of_a_test"
    package.mkdir()
    for name, text in (("__init__", ""), ("network", MINE), ("helping", "def half(x): return x / 2")):
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    network = importlib.import_module("mine_of_a_test.network").Network()
    loaded(tmp_path / "a", FakeDetector().build(2).eval(), FakeDetector(), SIZE, Eager())

    def key(part: nn.Module) -> str:
        return key_of(tmp_path / "a", FakeDetector(), "core", part)

    ours, first = key(nn.Identity()), key(network)
    assert key(nn.Sequential(network)) == first != ours
    (package / "helping.py").write_text("def half(x): return x / 3")
    assert key(network) != first
    assert key(nn.Identity()) == ours
    # a class that stands in no file is the same for this process only
    nowhere: Any = type("Nowhere", (nn.Module,), {"__module__": "typed_in"})
    typed = key(nowhere())
    assert key(nowhere()) == typed != ours
    monkeypatch.setattr(ahead_key, "_THIS_PROCESS", "another")
    assert key(nowhere()) != typed
    assert key(nn.Identity()) == ours


def test_a_key_costs_the_reading_of_our_own_networks_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch and the libraries are known by their versions: reading them would take seconds for each artefact."""
    loaded(tmp_path / "a", FakeDetector().build(2).eval(), FakeDetector(), SIZE, Eager())
    read = list[Path]()
    monkeypatch.setattr(ahead_key, "sha256", lambda file: read.append(file) or "a hash")
    key_of(tmp_path / "a", Yolo(), "core", Yolo(width=0.125).build(2))
    package = Path(ahead_key.__file__).parents[1]
    families = {package / "detectors" / name for name in ("", "yolox", "ssd", "faster_rcnn")}
    ours = {*families, package / "networks", package / "runtimes"}
    assert {file.parent for file in read} == {tmp_path / "a", *ours}
    assert len(read) == len(set(read))
    assert sum(file.stat().st_size for file in read) < 2**20


def test_a_program_is_known_by_how_and_where_it_was_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "private_folder", lambda _: tmp_path)
    asked = list[Path]()
    monkeypatch.setattr(AotProgram, "_compile", lambda _self, _images, folder: asked.append(folder))
    monkeypatch.setattr(AotProgram, "_opened", lambda *_: lambda given: given)

    def place(names: dict[str, str] | None = None) -> Path:
        AotProgram(nn.Identity(), ArrayConversion("cpu", "fp32"), "a key", names)(batch_of(SIZE))
        return asked[-1]

    first = place()
    assert place() == first != place({})
    changes: list[Callable[[], None]] = [
        lambda: monkeypatch.setenv("CXX", "clang++"),
        lambda: monkeypatch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE", "1"),
        lambda: monkeypatch.setattr(ahead_key, "cpu_flags", lambda: frozenset({"avx"})),
        lambda: monkeypatch.setattr(ahead_key, "version", lambda _: "0.1"),
        lambda: monkeypatch.setattr(AotProgram, "_options", {"freezing": False}),
    ]
    found = [first]
    for change in changes:
        change()
        found.append(place())
    assert len(set(found)) == len(found)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_program_is_compiled_once_and_says_what_its_own_network_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "private_folder", lambda _: tmp_path / "kept")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    batches = [batch_of(SIZE), np.concatenate([batch_of(SIZE), batch_of(SIZE, 0.5)])]
    compiled = list[Path]()
    compiling = AotProgram._compile

    def counting(self: AotProgram, images: torch.Tensor, folder: Path) -> None:
        compiled.append(folder)
        compiling(self, images, folder)

    monkeypatch.setattr(AotProgram, "_compile", counting)
    for seed, expected in ((0, 2), (0, 2), (1, 3), (1, 3), (1, 4)):  # the same form, other weights
        if expected == 4:  # somebody cleaned up, file by file
            next(compiled[-1].rglob("*.so")).unlink()
        torch.manual_seed(seed)
        network = FakeDetector().build(2).eval()
        folder = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}"
        (run,) = loaded(folder, network, FakeDetector(), SIZE, Compiled()).parts.values()
        for batch in batches[: 2 - seed]:
            with torch.no_grad():
                wanted = network(torch.from_numpy(batch))
            for got, raw in zip(run(batch), wanted, strict=True):
                assert np.abs(got - raw.numpy()).max() < 1e-5 * float(raw.abs().max())
        assert len(compiled) == expected
    assert list(temporary.iterdir()) == []
    programs = {folder.name for folder in compiled}
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert kept - {"checks"} == programs  # there where this process had not asked what CPU and compiler know
    files = [file for name in programs for file in (tmp_path / "kept" / name).rglob("*")]
    assert not [file for file in files if file.suffix in {".pt2", ".cpp"}]
    assert len([file for file in files if file.suffix == ".so"]) == 3


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("precision", "share"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_it_says_what_eager_says_in_float(tmp_path: Path, precision: str, share: float) -> None:
    torch.manual_seed(0)
    network = FakeDetector().build(2).eval()
    core = loaded(
        tmp_path / "artefact", network, FakeDetector(), SIZE, Compiled.model_validate({"precision": precision})
    )
    assert core.facts["precision"] == core.facts["layers"] == precision
    with torch.no_grad():
        wanted = network(torch.from_numpy(batch_of(SIZE)))
    for got, raw in zip(core(batch_of(SIZE)), wanted, strict=True):
        assert got.dtype == np.float32
        assert np.abs(got - raw.numpy()).max() < share * float(raw.abs().max())


FAMILIES = [
    pytest.param(Yolo(width=0.125, depthwise=False), InputSize(64, 64), 255.0, id="yolo"),
    pytest.param(Ssd(width=0.25), InputSize(96, 96), 1.0, id="ssdlite"),
    pytest.param(FasterRcnn(head_width=32, proposals=10), InputSize(64, 64), 1.0, id="faster_rcnn"),
    pytest.param(Ssd(variant="ssd300_vgg16"), InputSize(300, 300), 255.0, id="ssd300"),
]


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
@pytest.mark.parametrize(("detector", "size", "bright"), FAMILIES)
def test_every_family_compiles(detector: Detector, size: InputSize, bright: float, int8: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, batch = detector.build(2).eval(), batch_of(size, bright)
    if int8:
        network = quantize_network(network, detector, [batch], keep=predictors(network, detector))
    eager = loaded(tmp_path / "eager", network, detector, size, Eager())
    core = loaded(tmp_path / "compiled", network, detector, size, Compiled())
    assert core.facts["precision"] == ("int8" if int8 else "fp32")
    share = 0.1 if int8 else 1e-4  # an input between two of its 256 values may go either way
    for name, part in eager.parts.items():
        given = _inputs(detector, eager, batch, size)[name]
        for wanted, got in zip(part(given), core.parts[name](given), strict=True):
            assert np.abs(wanted - got).max() <= share * np.abs(wanted).max()


def _inputs(detector: Detector, core: NetworkRunner, batch: Floats, size: InputSize) -> dict[str, Floats]:
    """What each part is given."""
    seen: dict[str, Floats] = {}

    def noting(name: str) -> Any:
        return lambda given: (seen.__setitem__(name, given), core.parts[name](given))[1]

    detector.run({name: noting(name) for name in core.parts}, batch, size)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_stored_network_with_batch_norms_is_traced_in_halves(precision: EagerPrecision, tmp_path: Path) -> None:
    """What is read from a file are views; none of another type may be left behind them."""
    detector, size = Yolo(width=0.125, depthwise=False), InputSize(64, 64)
    torch.manual_seed(0)
    model = Model(detector.build(2).eval(), None, size)
    artefact = write_artefact(
        tmp_path / "artefact", model, detector=detector, runtime=Eager(), recipe_tree={}, classes=("a", "b")
    )
    network = load_for_inference(artefact, Target(), precision)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) > 10
    images = ArrayConversion("cpu", precision).tensor(batch_of(size))
    traced: Any = torch.compile(network, fullgraph=True, dynamic=False, backend="eager")
    with torch.no_grad():
        for ours, wanted in zip(traced(images), network(images), strict=True):
            torch.testing.assert_close(ours, wanted)
