"""Sessions of ONNX Runtime, and the check of a loaded file's inputs and outputs."""

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
    """Load the libraries of a GPU's provider that pip installed, and return the names of those that are missing.

    The provider itself searches the system's folders only; without them ONNX Runtime would run on another provider.
    """
    with redirect_stdout(StringIO()):
        library().preload_dlls()
    if word == "tensorrt" and importlib.util.find_spec("tensorrt_libs"):
        importlib.import_module("tensorrt_libs")  # part of the package tensorrt: loads its libraries
    return tuple(not_found(Path(library().__file__).parent / "capi" / f"libonnxruntime_providers_{word}.so"))


def open_session(
    file: Path,
    threads: int,
    providers: Mapping[str, Mapping[str, str]] | None = None,
    profile: Path | None = None,
    *,
    exact: bool = False,
) -> InferenceSession:
    """Return a session of an ONNX file with all graph optimizations.

    Threads spin only during an inference; by default they go on for tens of milliseconds after it and keep cores busy.

    Args:
        file: the file to open.
        threads: number of threads.
        providers: name of a provider → its options, best first; None for the CPU.
        profile: folder for the times of all operators, written when the session ends; None times nothing.
        exact: compute INT8 in float, so that no sum overflows on any CPU.
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
    chosen = [(name, dict(values)) for name, values in (providers or {PROVIDER: {}}).items()]
    # without the library's fallback, which prints a line and runs on another provider
    return ort.InferenceSession(str(file), options, providers=chosen, enable_fallback=0)


@dataclass(frozen=True)
class FileInput:
    """One input of a loaded file."""

    names: Collection[str]
    """Names of the tensor; a runtime that folds a cast away keeps both names."""
    shape: tuple[Any, ...]
    is_float: bool
    """True if it is of 32-bit floats."""

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
        given_inputs = "; ".join(map(str, inputs))
        raise RuntimeError(f"{file} takes {given_inputs}, expected one float input {name!r} of shape {shape or 'any'}")
    if exact and (further := sorted({*outputs}.difference(detector.part_outputs(part)))):
        raise RuntimeError(f"{file} has further outputs than the detector: {', '.join(further)}")
    if missing := [output for output in detector.part_outputs(part) if output not in outputs]:
        raise RuntimeError(f"{file} has no output {missing[0]!r}; it has {', '.join(sorted(outputs))}")


@dataclass(frozen=True)
class OnnxPart:
    """A session as a function from its input to its outputs."""

    session: InferenceSession
    given: str
    outputs: list[str]

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        """Return the outputs for one input."""
        raw: list[Any] = self.session.run(self.outputs, {self.given: batch})
        return tuple(raw)


@contextmanager
def process_cores_only() -> Iterator[None]:
    """Give every session that a library opens with default options one thread for each core of this process.

    By default a session has a thread bound to every core of the machine, including cores reserved for measurements.
    """
    ort = library()
    default: Any = ort.SessionOptions

    class Options(default):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = len(os.sched_getaffinity(0))

    ort.SessionOptions = Options
    try:
        yield
    finally:
        ort.SessionOptions = default


def onnx_part(detector: Detector, part: str, session: Any) -> OnnxPart:
    """Return an ONNX Runtime session of one of a detector's files as a function."""
    return OnnxPart(session, detector.part_input(part), list(detector.part_outputs(part)))
