"""Compression steps: each turns a model into a smaller or faster one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.core.registry import Registry

if TYPE_CHECKING:
    from paretune.compression.base import Step

STEPS: Registry[Step] = Registry(
    "step",
    {
        "prune": "paretune.compression.prune.step:Prune",
        "factorize": "paretune.compression.factorize.step:Factorize",
        "cluster": "paretune.compression.cluster:Cluster",
        "sparsify": "paretune.compression.sparsify:Sparsify",
        "finetune": "paretune.compression.finetune:Finetune",
        "recalibrate": "paretune.compression.recalibrate:Recalibrate",
        "export": "paretune.compression.export:Export",
        "quantize": "paretune.compression.quantize.step:Quantize",
    },
)
