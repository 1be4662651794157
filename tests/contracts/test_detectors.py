"""What every detector must do, asked of every row of the table."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.detectors.structure import count, load_network, save_network
from paretune.spec import parse_plugin
from paretune.structures import Annotations, InputSize, Thresholds

SIZE = InputSize(96, 64)
NAMES = DETECTORS.names


@pytest.fixture(params=NAMES)
def detector(request: pytest.FixtureRequest) -> Detector:
    found: Detector = parse_plugin(request.param, DETECTORS)
    assert found.size_problem(SIZE) is None, "SIZE of this file must suit every detector"
    return found


def raw_maps(detector: Detector, num_classes: int = 3, batch: int = 2) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    torch.manual_seed(0)
    network = detector.build(num_classes).eval()
    with torch.no_grad():
        return network, list(network(torch.rand(batch, 3, SIZE.height, SIZE.width) * 255))


def annotations(*counts: int) -> list[Annotations]:
    rng, found = np.random.default_rng(0), []
    for number in counts:
        corner = rng.uniform(0, 30, (number, 2))
        boxes = np.concatenate((corner, corner + rng.uniform(5, 30, (number, 2))), 1).astype(np.float32)
        found.append(Annotations(boxes, rng.integers(0, 3, number), np.zeros(number, bool)))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_importing_its_file_imports_no_heavy_library(name: str) -> None:
    code = (
        "import sys; from paretune.detectors import DETECTORS; "
        f"DETECTORS.load({name!r})().preprocess; "
        "print([m for m in ('torch', 'torchvision', 'cv2', 'onnx') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


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
    network = detector.build(2).eval()
    images = torch.rand(2, 3, SIZE.height, SIZE.width) * 255
    with torch.no_grad():
        together, alone = network(images), network(images[1:])
    for both, one in zip(together, alone, strict=True):
        torch.testing.assert_close(both[1:], one, rtol=1e-4, atol=1e-4)


def test_decodes_its_own_maps(detector: Detector) -> None:
    _, raw = raw_maps(detector)
    thresholds = Thresholds(score=1e-4, detections=7)
    found = detector.decode([maps.numpy() for maps in raw], SIZE, thresholds)
    assert len(found) == 2
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
    detector.decode(raw, SIZE, Thresholds())
    assert all(np.array_equal(a, b) for a, b in zip(raw, before, strict=True))


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (0, 0)])
def test_loss_is_finite_and_reaches_every_parameter(detector: Detector, counts: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = detector.build(3).train()
    raw = network(torch.rand(2, 3, SIZE.height, SIZE.width) * 255)
    terms = detector.loss(raw, annotations(*counts), SIZE)
    assert all(term.shape == () and torch.isfinite(term) for term in terms.values())
    sum(terms.values()).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not torch.isfinite(grad).all()] == []


@pytest.mark.slow
def test_loss_falls_when_trained_on_one_batch(detector: Detector) -> None:
    torch.manual_seed(0)
    network = detector.build(3).train()
    images, truth = torch.rand(2, 3, SIZE.height, SIZE.width) * 255, annotations(3, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = sum(detector.loss(network(images), truth, SIZE).values())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


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
    outputs = view(torch.zeros(1, 3, SIZE.height, SIZE.width))
    for hook in hooks:
        hook.remove()
    assert {id(output) for output in outputs} == {id(output) for output in ends}


def test_network_survives_the_disk(detector: Detector, tmp_path: Path) -> None:
    network, raw = raw_maps(detector)
    save_network(network, tmp_path)
    loaded = load_network(detector, 3, tmp_path)
    torch.manual_seed(0)
    detector.build(3)
    with torch.no_grad():
        again = loaded(torch.rand(2, 3, SIZE.height, SIZE.width) * 255)
    assert all(torch.equal(a, b) for a, b in zip(raw, again, strict=True))
    params, flops = count(loaded, SIZE)
    assert params == sum(parameter.numel() for parameter in network.parameters())
    assert flops > 0


def test_sizes_too_small_are_refused_with_what_would_be_right(detector: Detector) -> None:
    assert "must be" in (detector.size_problem(InputSize(7, 5)) or "")
