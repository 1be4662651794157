"""A runtime with its own file format and device needs an exporting step and itself, no change in Paretune."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from paretune.compression import STEPS
from paretune.compression.base import Context, Step, with_past_steps
from paretune.compression.finetune import Finetune
from paretune.compression.prune.targets import stopwatch
from paretune.compression.sparsify import Sparsify
from paretune.config.recipe import Recipe
from paretune.core import registry
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.detectors import DETECTORS
from paretune.networks.network_files import save_network
from paretune.runtimes import RUNTIMES
from paretune.runtimes.base import NetworkRunner, Runtime
from paretune.runtimes.predictor import device_of, load_predictor
from paretune.storage.artefact import Artefact
from paretune.workflows.build_artefact import build
from paretune.workflows.step_chain import InitialArtefactNetwork
from tests_support import ROOT, with_locks_of_its_own
from tests_support_compression import SIZE, MixedDetector, context, model, outputs
from tests_support_own_runtime import Packed

ROWS = {
    "paretune.step": ("pack", "tests_support_own_runtime:Pack"),
    "paretune.runtime": ("packed", "tests_support_own_runtime:Packed"),
}


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the rows that an installed package would have."""
    points = {group: [EntryPoint(name, row, group)] for group, (name, row) in ROWS.items()}
    monkeypatch.setattr(registry, "entry_points", lambda group: points.get(group, []))
    for table, (name, row) in ((STEPS, ROWS["paretune.step"]), (RUNTIMES, ROWS["paretune.runtime"])):
        monkeypatch.setitem(table.rows, name, row)
    monkeypatch.setitem(DETECTORS.rows, "mixed", "tests_support_compression:MixedDetector")


MEASURED = """\
import sys
from pathlib import Path
from paretune.config.recipe import Recipe
from paretune.core.target import Target
from paretune.networks.network_files import save_network
from paretune.profiling.latency.measure import measure
from paretune.workflows.build_artefact import build
from paretune.workflows.step_chain import InitialArtefactNetwork
from tests_support_compression import context, model
from tests_support_profiling import QUICK, images
folder, target = Path(sys.argv[1]), Target(device="npu")
save_network(model().torch_network, folder / "start")
recipe = Recipe.model_validate({"input_size": "64x48", "runtime": "packed"})
used = context(folder / "work", runtime=recipe.runtime, target=target)
build(InitialArtefactNetwork(folder / "start"), recipe, used, folder / "artefact")
print(measure(folder / "artefact", images(), target, QUICK).metrics()["latency_ms_p50"])
"""


def recipe(*steps: str) -> Recipe:
    return Recipe.model_validate({"input_size": "64x48", "steps": list(steps), "runtime": "packed"})


def test_the_exporting_step_is_inserted_where_the_runtime_needs_it() -> None:
    assert [step.name for step in recipe("sparsify").chain] == ["sparsify", "pack"]
    assert [step.name for step in recipe("pack").chain] == ["pack"]
    with pytest.raises(ValidationError, match="runtime 'packed' takes a packed model, but gets onnx"):
        recipe("quantize")


def test_its_artefact_is_built_and_predicts(tmp_path: Path) -> None:
    before = model()
    save_network(before.torch_network, tmp_path / "start")
    used = context(tmp_path / "work", runtime=Packed(), target=Target(device="npu"))
    made = build(InitialArtefactNetwork(tmp_path / "start"), recipe("sparsify"), used, tmp_path / "artefact")
    assert (made.artefact.format, made.artefact.device) == ("packed", "npu")
    assert device_of(tmp_path / "artefact") == "npu"
    predictor = load_predictor(tmp_path / "artefact", Target(device="npu"))
    image = np.random.default_rng(0).random((1, 3, SIZE.height, SIZE.width), np.float32)
    with torch.no_grad():
        expected = made.network(torch.from_numpy(image))
    for got, tensor in zip(predictor.core(image), expected, strict=True):
        np.testing.assert_allclose(got, tensor.numpy(), atol=1e-5)


@pytest.mark.slow
def test_installed_its_artefact_is_measured(tmp_path: Path) -> None:
    """The measuring process finds the runtime and its device by the entry points of the package."""
    facts = tmp_path / "site" / "mypackage-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    rows = {**ROWS, "paretune.detector": ("mixed", "tests_support_compression:MixedDetector")}
    (facts / "entry_points.txt").write_text("".join(f"[{group}]\n{' = '.join(row)}\n" for group, row in rows.items()))
    folders = [str(ROOT / "platform"), str(ROOT / "tests"), str(facts.parent)]
    environment = {**os.environ, "PYTHONPATH": with_locks_of_its_own(tmp_path, os.pathsep.join(folders))}
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


def test_its_latency_decides_a_pruning(tmp_path: Path) -> None:
    used = context(tmp_path, runtime=Packed(), target=Target(device="npu"))
    with stopwatch(model(), used) as share:
        assert share(model()) > 0


def test_its_device_is_a_target() -> None:
    assert Target(device="npu").device == "npu"
    assert Packed().unsupported_reason(Target(device="npu")) is None
    assert "not on cpu" in str(Packed().unsupported_reason(Target()))
    with pytest.raises(ValidationError, match=r"no runtime here runs on 'npv' \(did you mean 'npu'\?\); known: cpu"):
        Target(device="npv")


class Zeroing(Step):
    """Zero half of one layer's inputs: a step of another package that makes zeros."""

    name = "zeroing"
    makes = frozenset({"zeros"})

    def _apply(self, model: Model, context: Context) -> Model:
        network = MixedDetector().build(2)
        network.load_state_dict(model.torch_network.state_dict())
        with torch.no_grad():
            network.get_submodule("same.0").weight[:, :16] = 0
        return Model(network, None, model.input_size, notes=model.notes)


class Replacing(Zeroing):
    """Put a layer of a class that no saved network could be loaded with."""

    name = "replacing"

    def _apply(self, model: Model, context: Context) -> Model:
        made = super()._apply(model, context)
        made.torch_network.set_submodule("same.2", nn.Tanh())
        return made


def test_zeros_of_a_step_of_ones_own_stay_zeros(tmp_path: Path) -> None:
    used = context(tmp_path)
    sparse = Zeroing().apply(model(), used)
    tuned = Finetune(epochs=1).apply(sparse, used)
    assert not tuned.torch_network.get_submodule("same.0").weight[:, :16].any()
    assert tuned.history == ("zeroing", "finetune")
    assert not tuned.torch_network.training
    assert (tuned.params, tuned.flops) == (model().params, model().flops)
    assert all(torch.isfinite(tensor).all() for tensor in outputs(tuned.torch_network))


def test_zeros_of_earlier_steps_are_known_after_a_reload() -> None:
    again = with_past_steps(model(), [{"sparsify": {"sparsity": 0.5}}, {"gone": {}}])
    assert again.weight_properties == Sparsify.makes
    assert again.history == ("sparsify", "gone")
    assert again.notes == ("step gone is not installed here: training may undo what it did",)


def test_a_new_layer_class_without_a_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"layer 'same.2' is now a Tanh, .* has to implement .*Replacement"):
        Replacing().apply(model(), context(tmp_path))


class Unfinished(Runtime):
    """A runtime that names its format and nothing more."""

    name = "unfinished"
    accepts = "torch"

    def load(self, artefact: Artefact, target: Target) -> NetworkRunner:
        raise NotImplementedError


def test_a_runtime_that_lacks_members_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES.rows, "unfinished", f"{__name__}:Unfinished")
    with pytest.raises(ValidationError, match="is not complete: write devices, libraries"):
        Recipe.model_validate({"steps": [], "runtime": "unfinished"})
