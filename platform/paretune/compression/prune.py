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

if TYPE_CHECKING:
    from torch import nn


class Prune(Step):
    """Remove the least important channels of the whole network."""

    name: ClassVar[str] = "prune"

    ratio: float = Field(default=0.3, ge=0, le=0.95)
    """Share of the channels to remove."""
    importance: Literal["l1", "l2", "lamp", "fpgm", "bn_scale", "random"] = "l1"
    """What makes a channel important."""
    round_to: int = Field(default=8, ge=1, le=256)
    """Channels that are left are a multiple of this: odd widths make a network slower, not faster (16 suits
    AVX-512 CPUs, 8 small networks)."""
    scope: Literal["local", "global"] = "local"
    """local: every layer loses the share; global: the network does, its least important layers more."""

    def apply(self, model: Model, context: Context) -> Model:
        """Prune a copy of the network.

        Raises:
            UserError: the criterion does not fit the network.
            RuntimeError: the network could not be traced.
        """
        from paretune.detectors.structure import copy_network, count

        assert model.network is not None  # noqa: S101 - the recipe's formats meet
        network = copy_network(model.network)
        before = sum(parameter.numel() for parameter in network.parameters())
        if self.ratio > 0:
            self._prune(network, model, context)
        params, flops = count(network, model.input_size)
        pruned = replace(model, network=network.eval(), params=params, flops=flops, history=(*model.history, self.name))
        if params == before:
            return pruned.noted(f"prune changed nothing: ratio {self.ratio} with round_to {self.round_to}")
        return pruned

    def _prune(self, network: nn.Module, model: Model, context: Context) -> None:
        """Remove channels in place."""
        import torch
        import torch_pruning as tp

        network.eval()
        trainable = [(p, p.requires_grad) for p in network.parameters()]
        for parameter, _ in trainable:
            parameter.requires_grad_(True)  # the tracer does not see frozen parameters
        view = context.detector.prune_view(network)
        example = torch.zeros(1, 3, model.input_size.height, model.input_size.width)
        with torch.random.fork_rng([]):
            torch.manual_seed(context.seed)
            pruner = tp.BasePruner(
                view,
                (example,),  # a bare tensor would be taken apart along its batch
                importance=self._criterion(network),
                global_pruning=self.scope == "global",
                pruning_ratio=self.ratio,
                max_pruning_ratio=0.95,
                ignored_layers=context.detector.protected(network),
                round_to=self.round_to,
                in_channel_groups={},  # the defaults are shared between calls, and changed
                out_channel_groups={},
                num_heads={},
            )
            groups = list(pruner.DG.get_all_groups(root_module_types=pruner.root_module_types))
            if not groups:
                raise RuntimeError("prune: no prunable layer was traced in the network")
            pruner.step()
        for parameter, wanted in trainable:
            parameter.requires_grad_(wanted)

    def _criterion(self, network: nn.Module) -> Any:
        import torch_pruning as tp
        from torch import nn

        has_norm = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        if self.importance == "bn_scale" and not has_norm:
            raise UserError("prune: importance bn_scale needs batch norms, and this network has none; l1 fits any")
        match self.importance:
            case "l1" | "l2":
                return tp.importance.MagnitudeImportance(p=int(self.importance[1]))
            case "lamp":
                return tp.importance.LAMPImportance(p=2)
            case "fpgm":
                return tp.importance.FPGMImportance(p=2)
            case "bn_scale":
                return tp.importance.BNScaleImportance()
            case "random":
                return tp.importance.RandomImportance()
