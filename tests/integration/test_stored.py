"""Artefacts of every kind of compression: another process finds the same, training goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.compression.base import Context
from paretune.compression.cluster import Cluster
from paretune.compression.export import Export
from paretune.compression.factorize.step import Factorize
from paretune.compression.finetune import Finetune
from paretune.compression.prune.step import Prune
from paretune.compression.sparsify import Sparsify
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import Thresholds
from paretune.detectors.yolox.detector import Yolo
from paretune.networks.network_files import load_network
from paretune.runtimes import RUNTIMES
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.predictor import load_predictor
from paretune.storage.artefact import MANIFEST, Artefact, read_artefact
from tests_support_compression import CLASSES, context, model, pictures, same_state, state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DETECTOR = Yolo(width=0.125, depthwise=False)
RECIPES: dict[str, tuple[Any, ...]] = {
    "dense": (),
    "pruned": (Prune(ratio=0.5),),
    "chain": (Factorize(rank=0.25),),
    "chain, pruned": (Factorize(method="svd", rank=0.25), Prune(ratio=0.3)),
    "sparse": (Sparsify(sparsity=0.8),),
    "clustered": (Cluster(bits=4),),
    "all": (Prune(ratio=0.3), Factorize(rank=0.5), Sparsify(sparsity=0.5), Cluster(bits=5)),
}
EXPORTED = ("dense", "chain, pruned", "sparse", "clustered")
"""Recipes that are exported too: an export takes seconds."""
ELSEWHERE = """
import json, sys, numpy as np
from pathlib import Path
from paretune.runtimes.predictor import load_predictor
from paretune.core.target import Target
picture, found = np.load(sys.argv[1]), {}
for folder in sys.argv[3:]:
    detections = load_predictor(Path(folder), Target())(picture)
    found[folder] = np.column_stack([detections.boxes, detections.scores, detections.labels])
np.savez(sys.argv[2], *found.values())
print('torch' in sys.modules)
"""


def carried_out(steps: tuple[Any, ...], used: Context, runtime: str) -> Model:
    """The model at the end of a recipe; an export stands where `Recipe.chain` would put it."""
    made = model(DETECTOR)
    for step in steps:
        if step.accepts == "either" and runtime != "eager" and made.network is not None:
            made = Export().apply(made, used)
        made = step.apply(made, used)
    return Export().apply(made, used) if runtime != "eager" and made.network is not None else made


@pytest.fixture(scope="module", params=["eager", "onnxruntime"])
def stored(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Model, Artefact]]:
    place, runtime = tmp_path_factory.mktemp("artefacts"), RUNTIMES.load(request.param)()
    found = {}
    for name in RECIPES if request.param == "eager" else EXPORTED:
        finished = carried_out(RECIPES[name], context(place / "work" / name, DETECTOR), request.param)
        artefact = write_artefact(
            place / name,
            finished,
            detector=DETECTOR,
            runtime=runtime,
            recipe_tree={},
            classes=CLASSES,
            thresholds=Thresholds(score=0.01, detections=50),
        )
        found[name] = finished, artefact
    return found


def test_another_process_finds_the_same(stored: dict[str, tuple[Model, Artefact]], tmp_path: Path) -> None:
    picture = pictures(3).pictures[2]
    np.save(tmp_path / "picture.npy", picture)
    folders = [str(artefact.folder) for _, artefact in stored.values()]
    arguments = [str(tmp_path / "picture.npy"), str(tmp_path / "found.npz"), *folders]
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    eager = stored["dense"][1].format == "torch"
    assert run.stdout.split() == [str(eager)]
    with np.load(tmp_path / "found.npz") as found:
        for (_, artefact), elsewhere in zip(stored.values(), found.values(), strict=True):
            here = load_predictor(artefact.folder, Target())(picture)
            assert len(here.scores) > 0
            np.testing.assert_array_equal(elsewhere[:, 5], here.labels)
            np.testing.assert_allclose(elsewhere[:, 4], here.scores, atol=1e-5)
            np.testing.assert_allclose(elsewhere[:, :4], here.boxes, rtol=1e-5, atol=1e-3)  # pixels


def test_what_is_read_back_is_what_was_written_and_can_be_trained_on(
    stored: dict[str, tuple[Model, Artefact]], tmp_path: Path
) -> None:
    for name, (written, artefact) in stored.items():
        if written.network is None:
            assert all(file.read_bytes() == artefact.file("model.onnx").read_bytes() for file in written.files)
            continue
        loaded = load_network(DETECTOR, len(CLASSES), artefact.folder)
        assert same_state(state(written.network), state(loaded))
        if name == "all":
            tuned = Finetune(epochs=1).apply(replace(written, network=loaded), context(tmp_path, DETECTOR))
            shapes = [[tensor.shape for tensor in state(network).values()] for network in (loaded, tuned.network)]
            assert shapes[0] == shapes[1]
            assert not same_state(state(loaded), state(tuned.network))


def test_sizes_when_coded(stored: dict[str, tuple[Model, Artefact]]) -> None:
    """Few values and zeros shrink only when coded, to little more than their entropy asks for."""
    sizes = {name: (artefact.size_mib, artefact.coded_mib) for name, (_, artefact) in stored.items()}
    dense = sizes["dense"]
    assert all(0 < coded < size for size, coded in sizes.values())
    for name in ("sparse", "clustered"):
        assert sizes[name][0] == pytest.approx(dense[0], rel=1e-3)
        assert sizes[name][1] < 0.7 * dense[1]
    assert sizes["clustered"][1] < 0.3 * dense[1]
    assert stored["dense"][1].coded_mib == read_artefact(stored["dense"][1].folder).coded_mib


def test_the_coded_size_does_not_count_the_manifest(stored: dict[str, tuple[Model, Artefact]]) -> None:
    import bz2

    _, artefact = stored["clustered"]
    files = [path for path in artefact.folder.iterdir() if path.name != MANIFEST]
    assert artefact.coded_mib == sum(len(bz2.compress(path.read_bytes())) for path in files) / 2**20
    assert json.loads((artefact.folder / MANIFEST).read_text())["files"].keys() == {path.name for path in files}
