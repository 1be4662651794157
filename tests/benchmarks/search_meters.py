"""CPU seconds of the stages of a recorded recipe, the states of its fine-tuning, and exports that are shared."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search_rows import RUNGS

from paretune.compression.base import Context
from paretune.compression.export import Export
from paretune.compression.finetune import _digest
from paretune.core.model import Model
from paretune.core.spec import fingerprint
from paretune.workflows.stages import Stages

STATE = "state.pt"


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def meter() -> Stages:
    """Return stages that are timed in CPU seconds."""
    return Stages(clock=cpu_seconds)


class Epochs:
    """Keeps the state of a fine-tuning after each rung; its ``progress`` is that of the context.

    The line of an epoch is printed before its state is saved, so that the state on disk is the epoch's before.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start: float | None = None
        self.seconds: dict[str, float] = {}

    def file(self, rung: int) -> Path:
        """Return the file of the state after a rung."""
        return self._folder / f"rung-{rung}.pt"

    def progress(self, line: str) -> None:
        """Follow the lines of a trial."""
        if line == "finetune":
            self._start = cpu_seconds()
        if not line.startswith("finetune epoch ") or self._start is None:
            return
        number = int(line.split()[2].partition("/")[0])
        if number in RUNGS:
            self.seconds[str(number)] = round(cpu_seconds() - self._start, 3)
        if number - 1 in RUNGS[1:]:
            # pruning in rounds trains too, and leaves the states of its rounds
            saved = max(self._folder.glob(f"finetune-*/{STATE}"), key=lambda file: file.stat().st_mtime_ns)
            shutil.copyfile(saved, self.file(number - 1))


class SharedExports:
    """Exports each network once for all its deployments, and charges the CPU time of the export to each of them."""

    def __init__(self) -> None:
        self._apply = Export._apply
        self._known: dict[tuple[str, str], tuple[Model, float]] = {}
        self.charged = 0.0
        """CPU seconds of the exports that were not repeated."""

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Share the exports of the block."""

        def shared(step: Export, model: Model, context: Context) -> Model:
            key = fingerprint(_digest(model.torch_network), str(model.input_size)), str(model.history)
            if key not in self._known:
                start = cpu_seconds()
                exported = self._apply(step, model, context)
                self._known[key] = exported, cpu_seconds() - start
            else:
                self.charged += self._known[key][1]
            return self._known[key][0]

        Export._apply = shared  # type: ignore[method-assign]
        try:
            yield
        finally:
            Export._apply = self._apply  # type: ignore[method-assign]
            self._known.clear()
