"""Weight clustering: few different values in each layer, so that the file gets small when it is compressed.

Han et al., Deep Compression, ICLR 2016 (arXiv:1510.00149), without its fine-tuning of the shared values. Weights stay
float32: what is gained is size (``coded_mib``), not latency.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from paretune.compression.base import Context, Step
from paretune.compression.kmeans import clustered
from paretune.compression.quantize.float_layers import WEIGHTED
from paretune.core.model import Accepted, Format, Model, WeightProperty


class Cluster(Step):
    """Replace the weights of every layer by few values, the means of their clusters.

    Stands last: fine-tuning takes the clusters apart again. Where the runtime loads ONNX it changes the
    exported file, since an export multiplies weights by the scales of norms, channel by channel.
    """

    name: ClassVar[str] = "cluster"
    accepts: ClassVar[Accepted] = "either"
    produces: ClassVar[Format | None] = None
    makes: ClassVar[frozenset[WeightProperty]] = frozenset({"clusters"})

    bits: int = Field(default=4, ge=2, le=8)
    """Of a number that tells a value: at most 2 to the power of this many in a layer."""
    keep_outputs: bool = True
    """Leave the last layers, whose outputs are boxes and scores, as they are."""

    def _apply(self, model: Model, context: Context) -> Model:
        """Cluster the weights of a copy of the network or of its files."""
        made, changed = self._of_network(model, context) if model.file is None else self._of_files(model, context)
        if not changed:
            return model.unchanged(f"cluster changed nothing: no layer has more than {2**self.bits} different weights")
        return made.noted(f"cluster: {changed} layers of {self.bits} bits gain size when coded (coded_mib), no latency")

    def _of_network(self, model: Model, context: Context) -> tuple[Model, int]:
        """Return the model with clustered weights, and the number of layers changed."""
        import torch

        from paretune.networks.network_files import copy_network
        from paretune.networks.weighted_layers import weighted_layers

        network, changed = copy_network(model.torch_network), 0
        for layer in weighted_layers(network, context.detector, keep_outputs=self.keep_outputs).values():
            before = layer.weight.detach().numpy()
            after = clustered(before, 2**self.bits)
            changed += bool((before != after).any())
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(after))
        return replace(model, network=network), changed

    def _of_files(self, model: Model, context: Context) -> tuple[Model, int]:
        """The same of exported files."""
        import onnx

        files, changed = {}, 0
        for part, source in zip(context.detector.part_names, model.files, strict=True):
            graph = onnx.load(source)
            changed += self._in_graph(graph.graph)
            files[part] = context.workdir / f"{Path(source).stem}.clustered.onnx"
            onnx.save(graph, files[part])
        file = files.pop(context.detector.part_names[0])
        return replace(model, file=file, more=files), changed

    def _in_graph(self, graph: Any) -> int:
        """Cluster the float weights of an ``onnx.GraphProto`` in place; return the number of those changed."""
        from onnx import TensorProto, numpy_helper

        from paretune.compression.quantize.onnx_quantizers import last_convolutions

        left = set(last_convolutions(graph)) if self.keep_outputs else set()
        nodes = [node for node in graph.node if node.op_type in WEIGHTED and node.name not in left]
        weights = {name for node in nodes for name in node.input[:2]}
        changed = 0
        for tensor in graph.initializer:
            if tensor.name not in weights or tensor.data_type != TensorProto.FLOAT:
                continue
            before = numpy_helper.to_array(tensor)
            after = clustered(before, 2**self.bits)
            changed += bool((before != after).any())
            tensor.CopyFrom(numpy_helper.from_array(after, tensor.name))
        return changed
