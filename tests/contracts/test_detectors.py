"""What every detector must do, asked of every row of the table."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from paretune.compression.export import Export
from paretune.compression.prune.step import Prune
from paretune.compression.quantize.step import Quantize
from paretune.core.spec import parse_plugin
from paretune.core.types import Annotations, InputSize, Thresholds
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.networks.network_files import count, load_network, save_network
from paretune.networks.part_runner import in_eager
from paretune.runtimes.onnx_header import contents_of
from tests_support import heavy_imports
from tests_support_compression import context, model

NAMES = DETECTORS.names
SMALLER: dict[str, dict[str, Any]] = {"faster_rcnn": {"proposals": 16, "samples": 32}}
"""Fields that make a row quick without making it another."""


def rows() -> list[Any]:
    """Every variant of every row; the first of each row in `make test`, the others in `make test-all`."""
    found = []
    for name in NAMES:
        field = DETECTORS.load(name).model_fields.get("variant")
        variants = list(get_args(field.annotation)) if field else [None]
        for variant in variants:
            fields = {**({"variant": variant} if variant else {}), **SMALLER.get(name, {})}
            first = variant == (field.default if field else None)
            marks = [] if first else [pytest.mark.full, pytest.mark.timeout(900)]
            found.append(pytest.param({name: fields}, id=f"{name}-{variant}", marks=marks))
    return found


@pytest.fixture(params=rows())
def detector(request: pytest.FixtureRequest) -> Detector:
    found: Detector = parse_plugin(request.param, DETECTORS)
    return found


def smallest(detector: Detector) -> InputSize:
    """The smallest input, wider than high, from 96 x 64 on, that the row allows."""
    sizes = (InputSize(side + 32, side) for side in range(64, 1024, 32))
    return next(size for size in sizes if detector.size_unsupported_reason(size) is None)


def pictures(detector: Detector, batch: int = 2) -> torch.Tensor:
    """Noise as the row's preprocessing would give it."""
    size, random = smallest(detector), np.random.default_rng(0)
    shape = (size.height, size.width, 3)
    planes = [detector.preprocess.tensor(random.integers(0, 256, shape, np.uint8)) for _ in range(batch)]
    return torch.from_numpy(np.stack(planes))


def raw_maps(detector: Detector, num_classes: int = 3, batch: int = 2) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    torch.manual_seed(0)
    network = detector.build(num_classes).eval()
    with torch.no_grad():
        return network, list(network(pictures(detector, batch)))


def annotations(*counts: int) -> list[Annotations]:
    rng, found = np.random.default_rng(0), []
    for number in counts:
        corner = rng.uniform(0, 30, (number, 2))
        boxes = np.concatenate((corner, corner + rng.uniform(5, 30, (number, 2))), 1).astype(np.float32)
        found.append(Annotations(boxes, rng.integers(0, 3, number), np.zeros(number, bool)))
    return found


def test_importing_their_files_imports_no_heavy_library() -> None:
    assert (
        heavy_imports("paretune.detectors", "DETECTORS", ("torch", "torchvision", "cv2", "onnx"), "made.preprocess")
        == ""
    )


def test_is_written_in_yaml_as_it_was_read(detector: Detector) -> None:
    assert parse_plugin(detector.named(), DETECTORS) == detector
    assert detector.name in NAMES
    assert all(field.description for field in type(detector).model_fields.values())


def test_raw_maps_are_as_many_as_their_names_and_batched(detector: Detector) -> None:
    _, raw = raw_maps(detector)
    names = detector.raw_names()
    assert len(raw) == len(names) == len(set(names))
    assert {maps.shape[0] for maps in raw} == {2}
    assert {maps.dtype for maps in raw} == {torch.float32}


def test_images_of_a_batch_do_not_touch_each_other(detector: Detector) -> None:
    torch.manual_seed(0)
    network = detector.part_modules(detector.build(2).eval())[detector.part_names[0]]
    images = pictures(detector)
    with torch.no_grad():
        together, alone = network(images), network(images[1:])
    for both, one in zip(together, alone, strict=True):
        # sums are added up in another order for a larger batch: an error is a share of the largest value
        torch.testing.assert_close(both[1:], one, rtol=0, atol=1e-5 * float(one.abs().max()))


def test_decodes_its_own_maps(detector: Detector) -> None:
    _, raw = raw_maps(detector)
    thresholds = Thresholds(score=1e-4, detections=7)
    found = detector.decode([maps.numpy() for maps in raw], smallest(detector), thresholds)
    assert len(found) == 2
    assert sum(len(detections.scores) for detections in found) > 0
    for detections in found:
        count_found = len(detections.scores)
        assert detections.boxes.shape == (count_found, 4)
        assert detections.labels.shape == (count_found,)
        assert count_found <= 7
        assert (np.diff(detections.scores) <= 0).all()
        assert np.isfinite(detections.boxes).all()
        assert ((detections.labels >= 0) & (detections.labels < 3)).all()


def test_decoding_does_not_change_the_maps(detector: Detector) -> None:
    raw = [maps.numpy() for maps in raw_maps(detector)[1]]
    before = copy.deepcopy(raw)
    detector.decode(raw, smallest(detector), Thresholds())
    assert all(np.array_equal(a, b) for a, b in zip(raw, before, strict=True))


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (0, 0)])
def test_loss_is_finite_and_reaches_every_parameter(detector: Detector, counts: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = detector.build(3).train()
    terms = detector.training_loss(network, pictures(detector), annotations(*counts))
    assert all(term.shape == () and torch.isfinite(term) for term in terms.values())
    sum(terms.values()).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not torch.isfinite(grad).all()] == []


@pytest.mark.slow
def test_loss_falls_when_trained_on_one_batch(detector: Detector) -> None:
    torch.manual_seed(0)
    network = detector.build(3).train()
    images, truth = pictures(detector), annotations(3, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses: list[float] = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = sum(detector.training_loss(network, images, truth).values())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        # it need not stay there: Faster R-CNN's rises again once its first network puts more regions on objects
        if len(losses) >= 10 and sum(losses[-5:]) < 0.8 * sum(losses[:5]):
            return
    raise AssertionError(losses)


def test_prune_view_shares_the_parameters_and_ends_at_the_protected_layers(detector: Detector) -> None:
    network = detector.build(3).eval()
    view, protected = detector.prune_view(network), detector.protected(network)
    own = {id(parameter) for parameter in network.parameters()}
    assert {id(parameter) for parameter in view.parameters()} <= own
    modules = {id(module) for module in network.modules()}
    assert protected
    assert all(id(module) in modules for module in protected)
    ends = []
    hooks = [module.register_forward_hook(lambda _, __, output: ends.append(output)) for module in protected]
    outputs = view(pictures(detector, 1))
    for hook in hooks:
        hook.remove()
    assert {id(output) for output in outputs} == {id(output) for output in ends}


def test_network_survives_the_disk(detector: Detector, tmp_path: Path) -> None:
    network, raw = raw_maps(detector)
    save_network(network, tmp_path)
    loaded = load_network(detector, 3, tmp_path)
    with torch.no_grad():
        again = loaded(pictures(detector))
    own, read = network.state_dict(), loaded.state_dict()
    assert own.keys() == read.keys()
    assert all(torch.equal(own[name], read[name]) for name in own)
    for one, other in zip(raw, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # kernels differ with the layout in memory
    params, flops = count(loaded, smallest(detector))
    assert params == sum(parameter.numel() for parameter in network.parameters())
    assert flops > 0


def test_sizes_too_small_are_refused_with_what_would_be_right(detector: Detector) -> None:
    assert "must be" in (detector.size_unsupported_reason(InputSize(7, 5)) or "")


def test_parts_are_told_and_run_to_the_raw_maps(detector: Detector) -> None:
    torch.manual_seed(0)
    network = detector.build(3).eval()
    modules = detector.part_modules(network)
    assert tuple(modules) == detector.part_names
    parts = {name: in_eager(part) for name, part in modules.items()}
    batch = pictures(detector, 1)
    raw = detector.run(parts, batch.numpy(), smallest(detector))
    with torch.no_grad():
        whole = network(batch)
    assert [maps.shape for maps in raw] == [tuple(maps.shape) for maps in whole]
    if len(parts) == 1:  # of several, a later one is given what was chosen among what the one before found
        for got, wanted in zip(raw, whole, strict=True):
            np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_exports_prunes_and_quantizes(detector: Detector, tmp_path: Path) -> None:
    """The export compares every part with eager by itself; what is pruned still trains."""
    size, around = smallest(detector), context(tmp_path, detector)
    dense = model(detector, size)
    pruned = Prune(ratio=0.4, round_to=4).apply(dense, around)
    assert pruned.params is not None
    assert dense.params is not None
    assert pruned.params < 0.85 * dense.params
    exported = Export().apply(pruned, around)
    quantized = Quantize(images=4).apply(exported, around)
    assert quantized.file is not None
    assert contents_of(quantized.file).precision == "int8"
    assert pruned.network is not None
    truth = [Annotations(t.boxes, t.labels % 2, t.ignore) for t in annotations(2, 1)]
    loss = sum(detector.training_loss(pruned.network.train(), pictures(detector), truth).values())
    assert torch.isfinite(loss)
