"""Recalibration of batch norms: their statistics are estimated again for the compressed network.

Wu and Johnson, Rethinking "Batch" in BatchNorm (arXiv:2105.07576), section 3: means over many batches with fixed
weights replace the moving average of the training. For pruned networks: Li et al., EagleEye, ECCV 2020
(arXiv:2007.02491).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from paretune.compression.base import Context, ContextPart, Step
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.core.types import Floats

if TYPE_CHECKING:
    from torch import Tensor, nn

_STREAM = 0xB47C4
"""Number that separates the draw of images from other draws of the same seed."""


class Recalibrate(Step):
    """Estimate the statistics of batch norms again over training images, within seconds; no weight changes."""

    name: ClassVar[str] = "recalibrate"

    images: int = Field(default=256, ge=2, le=100_000)
    """Number of training images, drawn at random; all of them where there are fewer."""
    batch_size: int = Field(default=16, ge=2, le=1024)
    """Number of images in a batch, which are normalised together."""

    def uses(self) -> frozenset[ContextPart]:
        """Return the images, their order, and the threads of the training."""
        return frozenset({"data", "training", "seed"})

    def untrained(self) -> None:
        """Return None: it changes weights alone."""
        return

    def _apply(self, model: Model, context: Context) -> Model:
        """Recalibrate the batch norms of a copy of the network, without gradients.

        Raises:
            UserError: there are fewer than two training images.
        """
        import torch

        from paretune.networks.network_files import copy_network
        from paretune.system.device_lock import shared_device
        from paretune.training.loop import threads_of

        network = copy_network(model.torch_network).eval()
        norms = [module for module in network.modules() if _is_norm(module)]
        if not norms:
            return model.unchanged("recalibrate changed nothing: the network has no batch norms with statistics")
        device = context.device
        network.to(device)
        with shared_device(device), threads_of(context.training, device), torch.no_grad():
            with _collected_statistics(norms) as seen:
                for batch in self._batches(model, context):
                    network(torch.from_numpy(batch).to(device))
            for norm, sums in seen.items():
                sums.write_to(norm)
        return replace(model, network=network)

    def _batches(self, model: Model, context: Context) -> Iterator[Floats]:
        """Yield batches (B, 3, H, W) float32 of one size; images that do not fill a batch are not used."""
        split = context.data.splits["train"]
        order = np.random.default_rng([context.seed, _STREAM]).permutation(len(split))[: self.images]
        if len(order) < 2:
            raise UserError("recalibrate: at least two training images are needed to tell a variance")
        size = min(self.batch_size, len(order))
        for begin in range(0, len(order) // size * size, size):
            context.progress(f"recalibrate {begin}/{len(order)} images")
            chosen = order[begin : begin + size]
            images = [context.detector.preprocess(split.image(int(index)), model.input_size)[0] for index in chosen]
            yield np.stack(images)


@dataclass
class _Sums:
    """Sums of statistics over the calls of one norm."""

    calls: int
    mean: Tensor
    """Sum of the means of the batches, (C,) float64."""
    square: Tensor
    """Sum of the squares of these means."""
    variance: Tensor
    """Sum of the variances within the batches."""

    def write_to(self, norm: nn.Module) -> None:
        """Write the mean and the variance over all batches, within and between them, into the norm."""
        mean = self.mean / self.calls
        norm.running_mean.copy_(mean)  # type: ignore[operator]
        norm.running_var.copy_(self.variance / self.calls + self.square / self.calls - mean.square())  # type: ignore[operator]


def _is_norm(module: nn.Module) -> bool:
    from torch.nn.modules.batchnorm import _BatchNorm

    return isinstance(module, _BatchNorm) and module.running_mean is not None


@contextmanager
def _collected_statistics(norms: list[nn.Module]) -> Iterator[dict[nn.Module, _Sums]]:
    """Let norms normalise by the batch and collect their statistics; the rest of the network stays in eval mode."""
    import torch

    seen: dict[nn.Module, _Sums] = {}

    def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
        variance, mean = (values.double() for values in torch.var_mean(inputs[0], axes, correction=0))
        old = seen.get(norm) or _Sums(0, torch.zeros_like(mean), torch.zeros_like(mean), torch.zeros_like(mean))
        seen[norm] = _Sums(old.calls + 1, old.mean + mean, old.square + mean.square(), old.variance + variance)

    kept = [(norm, {name: tensor.clone() for name, tensor in norm.named_buffers()}) for norm in norms]
    hooks = [norm.register_forward_pre_hook(before) for norm in norms]
    for norm in norms:
        norm.train()
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
        for norm, buffers in kept:
            norm.eval()
            norm.load_state_dict(buffers, strict=False)
