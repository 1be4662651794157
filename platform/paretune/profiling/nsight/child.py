"""The process that Nsight Compute profiles: it loads an artefact and, after a warm-up, runs its network once.

``run.command`` starts it as ``python -m paretune.profiling.nsight.child ARTEFACT IMAGES``.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from paretune.core.errors import one_line
from paretune.core.target import Target
from paretune.profiling.latency.shared_images import mapped_images
from paretune.profiling.latency.worker_client import LOADER
from paretune.profiling.nsight.run import RANGE

WARM_UP = 5
"""Inferences before the profiled one: libraries choose algorithms, CUDA graphs are captured, memory is reserved."""


def main(words: list[str] | None = None) -> int:
    """Run the process; a failure prints a line that begins with ``paretune:`` and returns 1."""
    parser = argparse.ArgumentParser(prog="nsight_child")
    parser.add_argument("artefact", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--loader", default=LOADER)
    parser.add_argument("--seconds", type=float, default=0.0, help="after which it ends by itself (default: never)")
    given = parser.parse_args(words)
    # this process may be outside of ncu's process group, and must not outlive ncu on the GPU
    signal.setitimer(signal.ITIMER_REAL, given.seconds)
    try:
        module, _, function = given.loader.partition(":")
        predictor = getattr(importlib.import_module(module), function)(given.artefact, Target(device="cuda"))
        run_in_range(predictor, mapped_images(given.images)[0][0])
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises becomes one line
        traceback.print_exc()
        print(f"paretune: {type(error).__name__}: {one_line(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


def run_in_range(predictor: Any, image: Any) -> None:
    """Run the network on an image several times, then once within the NVTX range with the device idle at both ends."""
    import torch

    batch, _ = predictor.preprocess(image)
    for _ in range(WARM_UP):
        predictor.core(batch)
    torch.cuda.synchronize()
    nvtx: Any = torch.cuda.nvtx  # its functions have no types
    nvtx.range_push(RANGE)
    try:
        predictor.core(batch)
        torch.cuda.synchronize()
    finally:
        nvtx.range_pop()


if __name__ == "__main__":
    sys.exit(main())
