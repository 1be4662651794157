"""Sessions of ONNX Runtime: a file opened on a provider, with its threads, for the plug-in and all who run one."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.model import Format
from paretune.core.types import Floats, InputSize
from paretune.detectors.base import Detector
from paretune.system.shared_libraries import not_found

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

INPUT = "images"
PROVIDER = "CPUExecutionProvider"


def part_file(part: str, file_format: Format = "onnx") -> str:
    """Return the file name of one of a detector's networks, in an artefact of this format."""
    return f"model.{file_format}" if part == "core" else f"model.{part}.{file_format}"


def library() -> Any:
    """Import ONNX Runtime with its telemetry off: it would write a device id into the home folder."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


@cache
def load_libraries(word: str) -> tuple[str, ...]:
    """Load what came with pip for a GPU's provider, which looks in the system's folders only; return what is missing.

    ONNX Runtime has the provider all the same, and would run on another one. What it prints here is told so instead.
    """
    with redirect_stdout(StringIO()):
        library().preload_dlls()
    if word == "tensorrt" and importlib.util.find_spec("tensorrt_libs"):
        importlib.import_module("tensorrt_libs")  # of the package tensorrt: it loads them
    return tuple(not_found(Path(library().__file__).parent / "capi" / f"libonnxruntime_providers_{word}.so"))


def open_session(
    file: Path,
    threads: int,
    providers: Mapping[str, Mapping[str, str]] | None = None,
    profile: Path | None = None,
    *,
    exact: bool = False,
) -> InferenceSession:
    """Open an ONNX file with all graph optimizations, on the CPU unless providers are given, best first.

    With a folder as ``profile`` every operator is timed, for a file that the session writes there at its end.
    ``exact`` computes in float what a file rounds to integers: no sum is cut off, on any CPU.

    Threads of the pool spin only while an inference runs: by default they spin on for tens of
    milliseconds after it, on cores that by then belong to somebody else.
    """
    ort = library()
    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if exact:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile / file.stem)
    chosen = [(name, dict(told)) for name, told in (providers or {PROVIDER: {}}).items()]
    # without its own fallback, which prints and then runs on another provider than asked for
    return ort.InferenceSession(str(file), options, providers=chosen, enable_fallback=0)


@dataclass(frozen=True)
class FileInput:
    """One input of a loaded file."""

    names: Collection[str]
    """Names of the tensor; a runtime that folds a cast away keeps both names."""
    shape: tuple[Any, ...]
    is_float: bool
    """Whether it is of 32-bit floats."""

    def fits(self, name: str, shape: tuple[int, ...] | None) -> bool:
        """Return whether it is a float input of this name and shape; None stands for any shape."""
        return self.is_float and name in self.names and shape in (None, self.shape)

    def __str__(self) -> str:
        return f"{' or '.join(sorted(self.names))} {self.shape}{'' if self.is_float else ', not float'}"


def check_interface(
    detector: Detector,
    part: str,
    inputs: Sequence[FileInput],
    outputs: Collection[str],
    size: InputSize,
    *,
    exact: bool = False,
) -> None:
    """Compare a loaded file's input and outputs with the detector's.

    Args:
        detector: whose network it should be.
        part: name of the detector's network.
        inputs: of the file.
        outputs: names of the file's outputs.
        size: of the images; the input of a later part may have any shape.
        exact: whether further outputs are refused.

    Raises:
        RuntimeError: they differ.
    """
    file, name = part_file(part), detector.part_input(part)
    shape = (1, 3, size.height, size.width) if part == detector.part_names[0] else None
    if len(inputs) != 1 or not inputs[0].fits(name, shape):
        found = "; ".join(map(str, inputs))
        raise RuntimeError(f"{file} takes {found}, expected one float input {name!r} of shape {shape or 'any'}")
    if exact and (further := sorted({*outputs}.difference(detector.part_outputs(part)))):
        raise RuntimeError(f"{file} has further outputs than the detector: {', '.join(further)}")
    if missing := [output for output in detector.part_outputs(part) if output not in outputs]:
        raise RuntimeError(f"{file} has no output {missing[0]!r}; it has {', '.join(sorted(outputs))}")


@dataclass(frozen=True)
class OnnxPart:
    """A loaded file: input → outputs."""

    session: InferenceSession
    given: str
    outputs: list[str]

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        """Run it."""
        raw: list[Any] = self.session.run(self.outputs, {self.given: batch})
        return tuple(raw)


@contextmanager
def process_cores_only() -> Iterator[None]:
    """Give every session that is opened with default options one thread for each core this process may run on.

    By default it gets one for each core of the machine, bound there: also to those that were kept from the process,
    where somebody else may be measuring.
    """
    ort = library()
    usual: Any = ort.SessionOptions

    class Options(usual):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = len(os.sched_getaffinity(0))

    ort.SessionOptions = Options
    try:
        yield
    finally:
        ort.SessionOptions = usual
