"""Networks rewritten to compute the same with fewer operators.

Batch norms are folded into the convolutions before them: Jacob et al., arXiv:1712.05877, section 3.2. Every runtime
does this when it loads a network; done before the export it halves the time of the export. What runtimes do not do:
modules that know a simpler form of themselves (``simpler``) are put in it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from paretune.networks.network_files import copy_network

_CLOSE = 1e-4


def folded(network: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy in eval mode, with every batch norm folded that directly follows a convolution, and simplified.

    A convolution whose output also goes elsewhere must not be folded. It is noticed by the outputs
    for ``example``: where they differ, nothing is changed.

    Args:
        network: images → tuple of maps.
        example: images (B, 3, H, W).
    """
    copied = copy_network(network).eval()
    if not fold(copied, example):
        return copy_network(network).eval()
    simplify(copied)
    return copied


def simplify(network: nn.Module) -> None:
    """Put every module that knows a simpler form of itself in that form, in place."""
    for name, module in list(network.named_modules()):
        if name and (made := getattr(module, "simpler", lambda: None)()) is not None:
            network.set_submodule(name, made)


def fold(network: nn.Module, example: Tensor, left: Callable[[], nn.Module] = nn.Identity) -> bool:
    """Fold in place; return whether the network still gives the same outputs for ``example``.

    Args:
        network: in eval mode.
        example: as for ``folded``.
        left: makes what stands where a norm was.
    """
    expected, pairs = _run(network, example)
    for convolution, norm in pairs:
        fused = fuse_conv_bn_eval(convolution, norm)
        convolution.weight, convolution.bias = fused.weight, fused.bias
    norms = {id(norm) for _, norm in pairs}
    for name, module in list(network.named_modules()):
        if id(module) in norms:
            network.set_submodule(name, left())
    with torch.no_grad():
        return all(_near(a, b) for a, b in zip(expected, network(example), strict=True))


def _run(network: nn.Module, example: Tensor) -> tuple[tuple[Tensor, ...], list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """Run the network; return its outputs, and the convolutions with the batch norm that took theirs."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # holds the tensors too: else their ids would be given again
    calls: dict[nn.Module, int] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (module, output)
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    layers = [module for module in network.modules() if type(module) in {nn.Conv2d, nn.BatchNorm2d}]
    hooks = [module.register_forward_hook(after) for module in layers]
    try:
        with torch.no_grad():
            outputs = tuple(network(example))
    finally:
        for hook in hooks:
            hook.remove()
    # one convolution used at several places may stand before norms that differ
    return outputs, [(convolution, norm) for convolution, norm in pairs if calls[convolution] == calls[norm] == 1]


def _near(wanted: Tensor, got: Tensor) -> bool:
    return bool((wanted - got).abs().max() <= _CLOSE * wanted.abs().max())
