"""What every detector must do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from paretune.compression.export import Export
from paretune.compression.prune.step import Prune
from paretune.compression.quantize.step import Quantize
from paretune.core.registry import Registry
from paretune.core.types import Annotations, InputSize, Thresholds
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.networks.network_files import count, load_network, save_network
from paretune.networks.part_runner import in_eager
from paretune.runtimes.onnx_header import contents_of
from paretune.testing.plugin_contract import PluginContract
from paretune.testing.samples import sample_context, sample_model


class DetectorContract(PluginContract):
    """Tests of one detector: network, loss, decoding, and its way through pruning, export and quantization."""

    plugin: ClassVar[Detector]
    table: ClassVar[Registry[Any]] = DETECTORS
    table_module = "paretune.detectors"
    table_name = "DETECTORS"
    touch = "made.preprocess"

    def test_raw_maps_are_as_many_as_their_names_and_batched(self, subject: Detector) -> None:
        """The network returns one float map of the whole batch for each name."""
        _, raw = raw_maps(subject)
        names = subject.raw_names()
        assert len(raw) == len(names) == len(set(names))
        assert {maps.shape[0] for maps in raw} == {2}
        assert {maps.dtype for maps in raw} == {torch.float32}

    def test_images_of_a_batch_do_not_touch_each_other(self, subject: Detector) -> None:
        """An image gives the same maps alone and beside another."""
        torch.manual_seed(0)
        network = subject.part_modules(subject.build(2).eval())[subject.part_names[0]]
        images = noise_images(subject)
        with torch.no_grad():
            together, alone = network(images), network(images[1:])
        for both, one in zip(together, alone, strict=True):
            # sums are added up in another order for a larger batch: an error is a share of the largest value
            torch.testing.assert_close(both[1:], one, rtol=0, atol=1e-5 * float(one.abs().max()))

    def test_decodes_its_own_maps(self, subject: Detector) -> None:
        """Detections are finite, best first, of known classes, and no more than the thresholds keep."""
        _, raw = raw_maps(subject)
        thresholds = Thresholds(score=1e-4, detections=7)
        decoded = subject.decode([maps.numpy() for maps in raw], smallest_size(subject), thresholds)
        assert len(decoded) == 2
        assert sum(len(detections.scores) for detections in decoded) > 0
        for detections in decoded:
            number = len(detections.scores)
            assert detections.boxes.shape == (number, 4)
            assert detections.labels.shape == (number,)
            assert number <= 7
            assert (np.diff(detections.scores) <= 0).all()
            assert np.isfinite(detections.boxes).all()
            assert ((detections.labels >= 0) & (detections.labels < 3)).all()

    def test_decoding_does_not_change_the_maps(self, subject: Detector) -> None:
        """Maps may be a runtime's own buffers."""
        raw = [maps.numpy() for maps in raw_maps(subject)[1]]
        before = copy.deepcopy(raw)
        subject.decode(raw, smallest_size(subject), Thresholds())
        assert all(np.array_equal(a, b) for a, b in zip(raw, before, strict=True))

    @pytest.mark.parametrize("counts", [(3, 1), (0, 2), (0, 0)])
    def test_loss_is_finite_and_reaches_every_parameter(self, subject: Detector, counts: tuple[int, int]) -> None:
        """Every parameter gets a finite gradient, also from images without objects."""
        torch.manual_seed(0)
        network = subject.build(3).train()
        terms = subject.training_loss(network, noise_images(subject), random_boxes(*counts))
        assert all(term.shape == () and torch.isfinite(term) for term in terms.values())
        sum(terms.values(), torch.zeros(())).backward()  # type: ignore[no-untyped-call]  # torch's own
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        assert [name for name, grad in gradients.items() if grad is None or not torch.isfinite(grad).all()] == []

    def test_loss_falls_when_trained_on_one_batch(self, subject: Detector) -> None:
        """Some steps of Adam on two images lower the loss by a fifth at least."""
        torch.manual_seed(0)
        network = subject.build(3).train()
        images, truth = noise_images(subject), random_boxes(3, 2)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        losses: list[float] = []
        for _ in range(40):
            optimizer.zero_grad()
            loss = sum(subject.training_loss(network, images, truth).values(), torch.zeros(()))
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
            losses.append(loss.item())
            # it need not stay there: Faster R-CNN's rises again once its first network puts more regions on objects
            if len(losses) >= 10 and sum(losses[-5:]) < 0.8 * sum(losses[:5]):
                return
        raise AssertionError(losses)

    def test_prune_view_shares_the_parameters_and_ends_at_the_protected_layers(self, subject: Detector) -> None:
        """What pruning traces is the network itself, and its outputs are those of the protected layers."""
        network = subject.build(3).eval()
        view, protected = subject.prune_view(network), subject.protected(network)
        own = {id(parameter) for parameter in network.parameters()}
        assert {id(parameter) for parameter in view.parameters()} <= own
        modules = {id(module) for module in network.modules()}
        assert protected
        assert all(id(module) in modules for module in protected)
        ends: list[torch.Tensor] = []
        hooks = [module.register_forward_hook(lambda _, __, output: ends.append(output)) for module in protected]
        outputs = view(noise_images(subject, 1))
        for hook in hooks:
            hook.remove()
        assert {id(output) for output in outputs} == {id(output) for output in ends}

    def test_network_survives_the_disk(self, subject: Detector, tmp_path: Path) -> None:
        """A network that is saved and loaded has equal tensors and gives equal maps."""
        network, raw = raw_maps(subject)
        save_network(network, tmp_path)
        loaded = load_network(subject, 3, tmp_path)
        with torch.no_grad():
            again = loaded(noise_images(subject))
        own, read = network.state_dict(), loaded.state_dict()
        assert own.keys() == read.keys()
        assert all(torch.equal(own[name], read[name]) for name in own)
        for one, other in zip(raw, again, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # kernels differ with the layout in memory
        params, flops = count(loaded, smallest_size(subject))
        assert params == sum(parameter.numel() for parameter in network.parameters())
        assert flops > 0

    def test_sizes_too_small_are_refused_with_what_would_be_right(self, subject: Detector) -> None:
        """The reason says what an input size must be."""
        assert "must be" in (subject.size_unsupported_reason(InputSize(7, 5)) or "")

    def test_its_parts_run_to_the_raw_maps(self, subject: Detector) -> None:
        """The networks that are exported, run one after the other, give the maps of the whole network."""
        torch.manual_seed(0)
        network = subject.build(3).eval()
        modules = subject.part_modules(network)
        assert tuple(modules) == subject.part_names
        assert not any(module.training for part in modules.values() for module in part.modules())
        parts = {name: in_eager(part) for name, part in modules.items()}
        batch = noise_images(subject, 1)
        raw = subject.run(parts, batch.numpy(), smallest_size(subject))
        with torch.no_grad():
            whole = network(batch)
        assert [maps.shape for maps in raw] == [tuple(maps.shape) for maps in whole]
        if len(parts) == 1:  # of several, a later one is given what was chosen among what the one before found
            for got, expected in zip(raw, whole, strict=True):
                np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)

    def test_exports_prunes_and_quantizes(self, subject: Detector, tmp_path: Path) -> None:
        """A pruned network is smaller, is exported, quantized to INT8, and still trains.

        The export compares every part with eager by itself.
        """
        size, around = smallest_size(subject), sample_context(tmp_path, subject)
        dense = sample_model(subject, size)
        pruned = Prune(ratio=0.4, round_to=4).apply(dense, around)
        assert pruned.params is not None
        assert dense.params is not None
        assert pruned.params < 0.85 * dense.params
        exported = Export().apply(pruned, around)
        quantized = Quantize(images=4).apply(exported, around)
        assert quantized.file is not None
        assert contents_of(quantized.file).precision == "int8"
        assert pruned.network is not None
        truth = [Annotations(t.boxes, t.labels % 2, t.ignore) for t in random_boxes(2, 1)]
        terms = subject.training_loss(pruned.network.train(), noise_images(subject), truth)
        assert torch.isfinite(sum(terms.values(), torch.zeros(())))


def smallest_size(detector: Detector) -> InputSize:
    """Return the smallest input size, wider than high, from 96 x 64 on, that a detector allows."""
    sizes = (InputSize(side + 32, side) for side in range(64, 1024, 32))
    return next(size for size in sizes if detector.size_unsupported_reason(size) is None)


def noise_images(detector: Detector, batch: int = 2) -> torch.Tensor:
    """Return noise as a detector's preprocessing gives it: (B, 3, H, W) at its smallest size."""
    size, random = smallest_size(detector), np.random.default_rng(0)
    shape = (size.height, size.width, 3)
    planes = [detector.preprocess.tensor(random.integers(0, 256, shape, np.uint8)) for _ in range(batch)]
    return torch.from_numpy(np.stack(planes))


def raw_maps(detector: Detector, num_classes: int = 3, batch: int = 2) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """Return a fresh network in eval mode and its raw maps of noise."""
    torch.manual_seed(0)
    network = detector.build(num_classes).eval()
    with torch.no_grad():
        return network, list(network(noise_images(detector, batch)))


def random_boxes(*counts: int) -> list[Annotations]:
    """Return annotations with that many random boxes in each image, of the classes 0 to 2."""
    rng, made = np.random.default_rng(0), []
    for number in counts:
        corner = rng.uniform(0, 30, (number, 2))
        boxes = np.concatenate((corner, corner + rng.uniform(5, 30, (number, 2))), 1).astype(np.float32)
        made.append(Annotations(boxes, rng.integers(0, 3, number), np.zeros(number, bool)))
    return made
