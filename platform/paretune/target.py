"""Target: an accelerator the user owns, on which latency is measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from paretune.spec import Spec


class Target(Spec):
    """A device and how it is used while measuring."""

    device: Literal["cpu", "cuda"] = "cpu"
    """What the network runs on."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Threads of the network on a CPU; each is pinned to a core of its own. One thread is the only
    setting whose latency can be trusted on a machine that is shared with others."""
