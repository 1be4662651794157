"""Ratio of channels to remove for a share of the FLOPs or of the latency."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from paretune.compression.base import Context, conversions
from paretune.compression.export import training_images
from paretune.compression.prune.dependency_groups import ChannelGroup
from paretune.core.model import Model
from paretune.core.types import Floats, InputSize
from paretune.networks.layer_kinds import WEIGHTED_LAYERS, layer_flops
from paretune.profiling.latency.quick_compare import clock_for, quick_ratio
from paretune.runtimes.artefact_writer import write_artefact
from paretune.system.device_lock import exclusive_device, shared_device
from paretune.system.machine_cache import kept_in

MOST = 0.98
"""Highest share of the channels that is removed."""


def find_ratio(left: Callable[[float], float], wanted: float, *, guess: float, steps: int, close: float) -> float:
    """Return the ratio of channels whose remaining cost is nearest to the wanted one.

    Args:
        left: ratio → share of the cost that remains; it falls from 1 at ratio 0, perhaps in steps.
        wanted: share of the cost that should remain.
        guess: ratio that is tried first.
        steps: most ratios that are tried.
        close: difference that ends the search.
    """
    (low, above), (high, below) = (0.0, 1.0), (MOST, 0.0)
    best, error = 0.0, abs(1 - wanted)
    ratio = guess
    for _ in range(steps):
        remaining = left(ratio)
        if abs(remaining - wanted) < error:
            best, error = ratio, abs(remaining - wanted)
        if error <= close or high - low < 1e-4:
            break
        if remaining > wanted:
            low, above = ratio, remaining
        else:
            high, below = ratio, remaining
        slope = (above - wanted) / max(above - below, 1e-9)
        ratio = low + (high - low) * min(max(slope, 0.2), 0.8)  # linear interpolation, but never a small step only
    return best


def flops_by_layer(network: nn.Module, size: InputSize) -> dict[str, int]:
    """Return the floating-point operations of every weighted layer for one image, 2 x multiply-adds.

    Args:
        network: in eval mode on the CPU.
        size: of its input.
    """
    flops: dict[str, int] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, WEIGHTED_LAYERS):

            def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                flops[name] = flops.get(name, 0) + layer_flops(layer, inputs[0], output)

            hooks.append(module.register_forward_hook(count))
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, size.height, size.width))
    finally:
        for hook in hooks:
            hook.remove()
    return flops


def flops_left(flops: Mapping[str, int], blocks: Sequence[ChannelGroup], doomed: Mapping[str, Sequence[int]]) -> float:
    """Return the floating-point operations that remain without these channels; nothing is pruned for it.

    Args:
        flops: of every layer, see ``flops_by_layer``.
        blocks: channel groups of the network.
        doomed: name of a group → the channels to remove.
    """
    kept = {(name, reads): 1.0 for name in flops for reads in (False, True)}
    for block in blocks:
        gone = len(doomed.get(block.name, ()))
        for member in block.members:
            if member.name in flops:
                kept[member.name, member.reads] -= gone * member.share
    return sum(count * kept[name, False] * kept[name, True] for name, count in flops.items())


Stopwatch = Callable[[Model], float]
"""Model → its latency as a share of the dense network's."""


@contextmanager
def stopwatch(dense: Model, context: Context) -> Iterator[Stopwatch]:
    """Yield a function that measures networks on the context's runtime against the dense one.

    The networks run in this process, with the target's device locked; they are not changed.

    Raises:
        RuntimeError: the runtime does not run as asked for.
    """
    threads = torch.get_num_threads()  # a runtime that is torch sets them for the whole process
    image, clock = training_images(dense, context, 1)[0], clock_for(context.target)
    try:
        with _loaded(dense, context) as base:

            def share(model: Model) -> float:
                with _loaded(model, context, passing=True) as core, exclusive_device(context.target.device):
                    return quick_ratio(lambda: core(image), lambda: base(image), clock=clock)

            yield share
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _loaded(model: Model, context: Context, *, passing: bool = False) -> Iterator[Callable[[Floats], object]]:
    """Write a model as an artefact in a temporary folder, load it on the runtime and yield the loaded network.

    The device is shared while the model is loaded, and free in the context. With ``passing`` the runtime's cached
    program of the model is removed too, since it is not needed again.
    """
    runtime = context.runtime
    assert runtime is not None  # noqa: S101 - whoever measures has asked
    with tempfile.TemporaryDirectory(prefix="latency-", dir=context.workdir) as name:
        folder = Path(name)
        with shared_device(context.target.device):
            for conversion in conversions("torch", runtime.accepts):
                model = conversion.apply(model, context.in_folder(folder))
            artefact = write_artefact(
                folder / "artefact",
                model,
                detector=context.detector,
                runtime=runtime,
                recipe_tree={},
                classes=context.classes,
            )
            with kept_in(folder) if passing else nullcontext():
                core = runtime.load(artefact, context.target)
        yield core
