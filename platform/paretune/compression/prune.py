"""Structured pruning: whole channels go, so every runtime is faster without knowing of it.

Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (arXiv:2301.12900): channels that are
coupled (residuals, concatenations, depthwise convolutions) go together. Criteria: magnitude (Li et al.,
ICLR 2017, arXiv:1608.08710), LAMP (Lee et al., ICLR 2021, arXiv:2010.07611), FPGM (He et al., CVPR 2019,
arXiv:1811.00250), batch-norm scale (Liu et al., ICCV 2017, arXiv:1708.06519).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from paretune.compression.base import Context, Step
from paretune.errors import UserError
from paretune.model import Model
from paretune.names import IMPORTANCES

if TYPE_CHECKING:
    from torch import nn


class Prune(Step):
    """Remove the least important channels of the whole network."""

    name: ClassVar[str] = "prune"

    ratio: float = Field(default=0.3, ge=0, lt=0.95)
    """Share of the channels to remove."""
    importance: Literal["l1", "l2", "lamp", "fpgm", "bn_scale", "random"] = "l1"
    """What makes a channel important."""
    round_to: int = Field(default=8, ge=1, le=256)
    """Channels that are left are the nearest multiple of this, and never none: odd widths make a network
    slower, not faster (16 suits AVX-512 CPUs, 8 small networks)."""
    scope: Literal["local", "global"] = "local"
    """local: every layer loses the share; global: the network does, its least important layers more."""

    def apply(self, model: Model, context: Context) -> Model:
        """Prune a copy of the network.

        Raises:
            UserError: the criterion does not fit the network.
            RuntimeError: the network could not be traced.
        """
        from paretune.compression.frozen_norms import thawed
        from paretune.detectors.structure import copy_network, count

        assert model.network is not None  # noqa: S101 - the recipe's formats meet
        network = copy_network(model.network).eval()
        before = sum(parameter.numel() for parameter in network.parameters())
        if self.ratio > 0:
            wanted = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
            with thawed(network):
                self._prune(network, model, context)
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(wanted[name])
        params, flops = count(network, model.input_size)
        pruned = replace(model, network=network, params=params, flops=flops, history=(*model.history, self.name))
        if params == before:
            return pruned.noted(f"prune changed nothing: ratio {self.ratio:g} with round_to {self.round_to}")
        return pruned

    def _prune(self, network: nn.Module, model: Model, context: Context) -> None:
        """Remove channels in place."""
        import torch
        import torch_pruning as tp

        criterion = self._criterion(network)
        network.requires_grad_(True)  # the tracer does not see frozen parameters
        example = torch.zeros(1, 3, model.input_size.height, model.input_size.width)
        with torch.random.fork_rng([]), torch.enable_grad():
            torch.manual_seed(context.seed)
            pruner = _rounding_pruner(tp.BasePruner)(
                context.detector.prune_view(network),
                (example,),  # a bare tensor would be taken apart along its batch
                importance=criterion,
                global_pruning=self.scope == "global",
                pruning_ratio=self.ratio,
                max_pruning_ratio=1.0,  # the rounding sees to it that every layer keeps channels
                ignored_layers=context.detector.protected(network),
                unwrapped_parameters=context.detector.lone_parameters(network),
                round_to=self.round_to,
                in_channel_groups={},  # the defaults are shared between calls, and changed
                out_channel_groups={},
                num_heads={},
            )
            groups = list(pruner.DG.get_all_groups(pruner.ignored_layers, pruner.root_module_types))
            if not groups:
                raise RuntimeError("prune: no prunable layer was traced in the network")
            pruner.step()

    def _criterion(self, network: nn.Module) -> Any:
        """Return torch-pruning's class for the criterion, made.

        Raises:
            UserError: it does not fit the network.
        """
        import torch_pruning as tp
        from torch import nn

        has_norm = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        if self.importance == "bn_scale" and not has_norm:
            raise UserError("prune: importance bn_scale needs batch norms, and this network has none; l1 fits any")
        options = {"p": 1} if self.importance == "l1" else {}
        return getattr(tp.importance, IMPORTANCES[self.importance])(**options)


def _rounding_pruner(base: type[Any]) -> type[Any]:
    """Return torch-pruning's pruner with widths rounded to the nearest multiple.

    Its own rounding goes down always, and a layer that comes to nothing is then left as wide as it
    was: at ratio 0.9 a narrow network would keep more channels than at 0.5.
    """

    class Pruner(base):  # type: ignore[misc]
        def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
            return channels_removed(n_pruned, current_channels, round_to)

    return Pruner


def channels_removed(asked: int, channels: int, multiple: int) -> int:
    """Return how many of ``channels`` go, when ``asked`` should: the nearest to it that leaves a multiple, not 0."""
    if asked == 0:
        return 0
    left = max(1, (channels - asked + multiple // 2) // multiple) * multiple
    return max(0, channels - left)
