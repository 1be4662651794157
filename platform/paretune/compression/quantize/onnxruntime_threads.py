"""ONNX Runtime inside other libraries, kept to the cores of this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paretune.runtimes.onnx_session import library


@contextmanager
def on_own_cores() -> Iterator[None]:
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
