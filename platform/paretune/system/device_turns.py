"""Short turns on a shared device, for background work that may block and must keep no measurement waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from paretune.system.device_lock import shared_device

LONGEST = 0.8
"""Seconds after which a turn ends, even if its block goes on."""


@contextmanager
def device_turn(device: str, longest: float = LONGEST) -> Iterator[None]:
    """Hold a device shared during the block, but no longer than a limit: a block that takes longer mostly waits.

    Args:
        device: argument of ``shared_device``.
        longest: limit in seconds.
    """
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with shared_device(device):
                held.set()
                done.wait(longest)
        finally:
            held.set()  # a device that cannot be locked does not stop the work

    holder = threading.Thread(target=hold, name="device turn", daemon=True)
    holder.start()
    held.wait()
    try:
        yield
    finally:
        done.set()
        holder.join()
