"""The profiler of code on a GPU, with the breakdown of one network."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.api.inputs import DataSource, missing_as_user_error
from paretune.core.errors import UserError, one_line
from paretune.profiling.gpu.nvml import opened
from paretune.profiling.gpu.profiler import GPUProfiler as BlockProfiler
from paretune.system.physical_gpu import NoGpuError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paretune.profiling.nsight.run import NsightResults
    from paretune.profiling.operators import OperatorTimes


@dataclass(frozen=True)
class Breakdown:
    """Where the time of one network goes."""

    name: str
    """The module's class, or the artefact's folder."""
    operators: OperatorTimes | str
    """Time of each operator by torch's profiler, or the runtime's of an artefact; a text is why it is not known."""
    nsight: NsightResults | None
    """Kernels by Nsight Compute, or the reason why there are none; None if nobody looked."""

    def tree(self) -> dict[str, Any]:
        """Return plain data."""
        known = not isinstance(self.operators, str)
        return {
            "name": self.name,
            "operators": self.operators.to_dict() if known else None,  # type: ignore[union-attr]
            "reason": None if known else self.operators,
            "nsight": None if self.nsight is None else self.nsight.to_dict(),
        }

    def __str__(self) -> str:
        """Return the tables of layers, of kinds of operators, and of kernels."""
        from paretune.reports.nsight_tables import nsight_tables
        from paretune.reports.profile_tables import operator_tables

        tables = operator_tables([self.name], [self.operators])
        tables += [] if self.nsight is None else nsight_tables([self.name], self.nsight)
        return "\n".join("\n".join([table.text(), *table.notes, ""]) for table in tables)


class GPUProfiler(BlockProfiler):
    """Profiles code on a GPU: a block (``with``), calls (decorator), or the operators of one network (`breakdown`).

    A block's ``report`` has load, memory, clocks, power, energy and time; without a GPU it has the reason and the
    figures of the CPU.

    Example:
        >>> with paretune.GPUProfiler() as gpu:
        ...     train()
        >>> print(gpu.report)
        >>> print(paretune.GPUProfiler().breakdown(network, torch.zeros(1, 3, 320, 320)))
    """

    @missing_as_user_error
    def breakdown(
        self,
        subject: nn.Module | str | PathLike[str],
        example: Tensor | None = None,
        *,
        device: str = "cuda",
        data: DataSource | None = None,
    ) -> Breakdown:
        """Return the time of each operator of a network, and its kernels where Nsight Compute is installed.

        Args:
            subject: torch module, or the folder of an artefact.
            example: input of the module; an artefact takes images.
            device: ``cuda`` (of a module: the profiler's GPU), or ``cpu``.
            data: images for an artefact; None takes those of the sweep or training around it.

        Raises:
            UserError: there is no GPU, the module does not take the example, or the artefact cannot be measured.
        """
        if device == "cuda":
            self._check_gpu()
        if isinstance(subject, (str, PathLike)):
            return self._of_artefact(Path(subject), device, data)
        if example is None:
            raise UserError("breakdown: give an example, an input of the module")
        from paretune.profiling.module_operators import module_operators

        number = f":{self._device}" if isinstance(self._device, int) and device == "cuda" else ""
        name = type(subject).__name__
        try:
            operators = module_operators(subject, example, f"{device}{number}")
        except RuntimeError as error:
            raise UserError(f"{name}: cannot be run on {device}: {one_line(error)}") from error
        return Breakdown(name, operators, None)

    def _check_gpu(self) -> None:
        """Raise a UserError if there is no GPU that torch can use."""
        import torch

        try:
            with opened(self._device):
                pass
        except NoGpuError as error:
            raise UserError(f"no GPU to profile on: {error}; device='cpu' shows the time on the CPU") from error
        if not torch.cuda.is_available():
            raise UserError("no GPU to profile on: torch finds none; device='cpu' shows the time on the CPU")

    def _of_artefact(self, folder: Path, device: str, data: DataSource | None) -> Breakdown:
        from paretune.api.measuring import profile

        found = profile(folder, data=data, device=device, threads=1, nsight=device == "cuda")
        (operators,) = found.operators
        return Breakdown(str(folder), operators, found.nsight)
