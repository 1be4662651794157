"""ONNX Runtime (https://onnxruntime.ai): the portable runtime, fast on CPUs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from paretune.model import Format
from paretune.runtimes.base import Core, Runtime
from paretune.store import Artefact
from paretune.structures import Floats
from paretune.target import Target

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MODEL = "model.onnx"
INPUT = "images"


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU, in the precision of the file: float32, or INT8 after `quantize`."""

    name: ClassVar[str] = "onnxruntime"
    accepts: ClassVar[Format] = "onnx"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def load(self, artefact: Artefact, target: Target) -> Core:
        """Load ``model.onnx`` with all graph optimizations and the target's threads.

        Raises:
            RuntimeError: another provider, or another number of threads, than asked for.
        """
        import onnxruntime as ort

        session = open_session(artefact.file(MODEL), target.threads)
        provider, threads = session.get_providers()[0], session.get_session_options().intra_op_num_threads
        if provider != "CPUExecutionProvider" or threads != target.threads:
            raise RuntimeError(f"ONNX Runtime runs on {provider} with {threads} threads, not as asked for")
        facts: dict[str, str | int] = {
            "runtime": f"onnxruntime {ort.__version__}",
            "provider": provider,
            "threads": threads,
            "precision": "int8" if _is_quantized(artefact) else "fp32",
        }
        return _Session(session, [output.name for output in session.get_outputs()], facts)


def open_session(file: Path, threads: int) -> InferenceSession:
    """Open an ONNX file on the CPU with all graph optimizations."""
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _is_quantized(artefact: Artefact) -> bool:
    """Tell by the recipe whether the file holds INT8 weights; the file itself need not be parsed twice."""
    return any("quantize" in step for step in artefact.recipe.get("steps", []))


@dataclass(frozen=True)
class _Session:
    """A loaded session as a Core."""

    session: InferenceSession
    outputs: list[str]
    facts: dict[str, str | int] = field(default_factory=dict)

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        raw: list[Any] = self.session.run(self.outputs, {INPUT: batch})
        return tuple(raw)
