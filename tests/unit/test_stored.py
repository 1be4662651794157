"""Artefacts of every kind of compression: another process finds the same from the folder alone, and training goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.compression.artefact import write_artefact
from paretune.compression.base import Context
from paretune.compression.cluster import Cluster
from paretune.compression.export import Export
from paretune.compression.factorize import Factorize
from paretune.compression.finetune import Finetune
from paretune.compression.prune import Prune
from paretune.compression.sparsify import Sparsify
from paretune.detectors.structure import load_network
from paretune.detectors.yolo import Yolo
from paretune.model import Model
from paretune.runtimes import RUNTIMES
from paretune.runtimes.predictor import load_predictor
from paretune.store import MANIFEST, Artefact, read_artefact
from paretune.structures import Thresholds
from paretune.target import Target
from tests_support_compression import CLASSES, context, model, pictures, same_state, state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DETECTOR = Yolo(width=0.125, depthwise=False)
RECIPES: dict[str, tuple[Any, ...]] = {
    "dense": (),
    "pruned": (Prune(ratio=0.5),),
    "svd": (Factorize(method="svd", rank=0.25),),
    "tucker": (Factorize(method="tucker", rank=0.25),),
    "chain, pruned": (Factorize(rank=0.25), Prune(ratio=0.3)),
    "sparse": (Sparsify(sparsity=0.8),),
    "2:4": (Sparsify(pattern="2:4"),),
    "clustered": (Cluster(bits=4),),
    "all": (Prune(ratio=0.3), Factorize(rank=0.5), Sparsify(sparsity=0.5), Cluster(bits=5)),
}
ELSEWHERE = """
import json, sys, numpy as np
from pathlib import Path
from paretune.runtimes.predictor import load_predictor
from paretune.target import Target
picture, found = np.load(sys.argv[1]), {}
for folder in sys.argv[3:]:
    detections = load_predictor(Path(folder), Target())(picture)
    found[folder] = np.column_stack([detections.boxes, detections.scores, detections.labels])
np.savez(sys.argv[2], *found.values())
print('torch' in sys.modules)
"""


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return context(tmp_path_factory.mktemp("work"), DETECTOR)


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
    request: pytest.FixtureRequest, used: Context, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Artefact]:
    place, runtime = tmp_path_factory.mktemp("artefacts"), RUNTIMES.load(request.param)()
    return {
        name: write_artefact(
            place / name.replace(":", "-"),
            carried_out(steps, replace(used, workdir=_made(place / "work" / name)), request.param),
            detector=DETECTOR,
            runtime=runtime,
            recipe_tree={},
            classes=CLASSES,
            thresholds=Thresholds(score=0.01, detections=50),
        )
        for name, steps in RECIPES.items()
    }


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_another_process_finds_the_same(stored: dict[str, Artefact], tmp_path: Path) -> None:
    picture = pictures(3).pictures[2]
    np.save(tmp_path / "picture.npy", picture)
    folders = [str(artefact.folder) for artefact in stored.values()]
    arguments = [str(tmp_path / "picture.npy"), str(tmp_path / "found.npz"), *folders]
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    eager = next(iter(stored.values())).format == "torch"
    assert run.stdout.split() == [str(eager)]
    with np.load(tmp_path / "found.npz") as found:
        for artefact, elsewhere in zip(stored.values(), found.values(), strict=True):
            here = load_predictor(artefact.folder, Target())(picture)
            assert len(here.scores) > 0
            np.testing.assert_array_equal(elsewhere[:, 5], here.labels)
            np.testing.assert_allclose(elsewhere[:, 4], here.scores, atol=1e-5)
            np.testing.assert_allclose(elsewhere[:, :4], here.boxes, rtol=1e-5, atol=1e-3)  # pixels


def test_what_is_read_back_is_what_was_written(stored: dict[str, Artefact], used: Context) -> None:
    for name, artefact in stored.items():
        if artefact.format != "torch":
            continue
        written = carried_out(RECIPES[name], used, "eager").network
        assert same_state(state(written), state(load_network(DETECTOR, len(CLASSES), artefact.folder)))


def test_training_goes_on_from_what_was_read(stored: dict[str, Artefact], used: Context) -> None:
    for name, artefact in stored.items():
        if artefact.format != "torch":
            continue
        loaded = load_network(DETECTOR, len(CLASSES), artefact.folder)
        before = state(loaded)
        tuned = Finetune(epochs=1).apply(replace(model(DETECTOR), network=loaded), used)
        assert tuned.params
        assert {key: t.shape for key, t in state(tuned.network).items()} == {key: t.shape for key, t in before.items()}
        assert not same_state(before, state(tuned.network)), name


def test_sizes_when_coded(stored: dict[str, Artefact]) -> None:
    """Few values and zeros shrink only when coded, to little more than their entropy asks for."""
    sizes = {name: (artefact.size_mib, artefact.coded_mib) for name, artefact in stored.items()}
    dense = sizes["dense"]
    assert all(0 < coded < size for size, coded in sizes.values())
    for name in ("sparse", "2:4", "clustered"):
        assert sizes[name][0] == pytest.approx(dense[0], rel=1e-3)
        assert sizes[name][1] < 0.7 * dense[1]
    assert sizes["clustered"][1] < 0.3 * dense[1]
    assert stored["dense"].coded_mib == read_artefact(stored["dense"].folder).coded_mib


def test_the_coded_size_does_not_count_the_manifest(stored: dict[str, Artefact]) -> None:
    import bz2

    artefact = stored["clustered"]
    files = [path for path in artefact.folder.iterdir() if path.name != MANIFEST]
    assert artefact.coded_mib == sum(len(bz2.compress(path.read_bytes())) for path in files) / 2**20
    assert json.loads((artefact.folder / MANIFEST).read_text())["files"].keys() == {path.name for path in files}
