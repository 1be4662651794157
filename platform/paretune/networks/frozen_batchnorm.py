"""Frozen batch norms, made visible to torch-pruning while it works.

torchvision's pretrained backbones keep their norms as ``FrozenBatchNorm2d``, whose tensors are buffers of
a class that torch-pruning does not know: it would narrow the convolution and leave the norm wide.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_TENSORS = ("weight", "bias", "running_mean", "running_var")


@contextmanager
def thawed(network: nn.Module) -> Iterator[None]:
    """Put a ``BatchNorm2d`` in eval mode in place of every frozen one; what is left of it is frozen again after.

    In eval mode the two compute the same.
    """
    layers = [(name, module) for name, module in network.named_modules() if is_frozen(module)]
    thawn = [(name, frozen, _ordinary(frozen)) for name, frozen in layers]
    for name, _, ordinary in thawn:
        network.set_submodule(name, ordinary)
    try:
        yield
    finally:
        for name, frozen, ordinary in thawn:
            for tensor in _TENSORS:
                setattr(frozen, tensor, getattr(ordinary, tensor).detach())
            network.set_submodule(name, frozen)


def is_frozen(module: nn.Module) -> bool:
    """Return whether a module is a frozen norm, by its class's name, which torchvision and detectron2 share."""
    return type(module).__name__ == "FrozenBatchNorm2d"


def _ordinary(frozen: nn.Module) -> nn.BatchNorm2d:
    """Return a batch norm in eval mode with the tensors of a frozen one."""
    values: dict[str, nn.Parameter] = {name: getattr(frozen, name) for name in _TENSORS}
    norm = nn.BatchNorm2d(len(values["weight"]), eps=float(frozen.eps))  # type: ignore[arg-type]
    norm.load_state_dict(values, strict=False)
    return norm.eval()
