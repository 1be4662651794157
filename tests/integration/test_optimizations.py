"""``paretune optimize``: a trained network through the steps of one recipe, without a sweep."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from paretune.cli.main import main
from paretune.compression.prune.step import Prune
from paretune.compression.recalibrate import Recalibrate
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.data.synthetic.shapes import Shapes
from paretune.detectors.yolox.detector import Yolo
from paretune.networks import network_files as structure
from paretune.networks.network_files import count, load_network, save_network
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.eager import Eager
from paretune.runtimes.predictor import load_predictor
from paretune.storage.artefact import MANIFEST, read_artefact
from paretune.workflows.recipe_source import read_source
from tests_support_compression import context

DETECTOR = Yolo(depthwise=False, width=0.125)
SHAPES = Shapes(train=8, val=4, size="64x64")
SIZE = InputSize(64, 64)
PRUNE = "prune={ratio: 0.5}"
SEAL = "manifest_sha256"


class Place:
    """A working folder with a training that looks as `paretune train` leaves it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.training = folder, folder / "runs" / "trainings" / "tiny"
        self.classes = SHAPES.open(folder / "runs" / "datasets").classes
        torch.manual_seed(0)
        save_network(DETECTOR.build(len(self.classes)), self.training)
        told = {"detector": DETECTOR.named(), "input_size": "64", "classes": list(self.classes)}
        (self.training / "training.json").write_text(json.dumps(told))
        job = {"dataset": SHAPES.named(), "detector": DETECTOR.named(), "input_size": 64, "space": "space.yaml"}
        job["training"] = {"batch_size": 4, "lr": 1e-3, "threads": 1, "device": "cpu"}
        for path in (self.training / "job.yaml", folder / "job.yaml"):
            path.write_text(yaml.safe_dump(job))

    def optimize(self, *words: Any, source: Path | None = None) -> int:
        return main(["optimize", *map(str, (source or self.training, *words))])

    def left(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {"runs", "job.yaml"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


def test_a_step_shares_the_cpu_unless_it_locks_by_itself(
    place: Place, own_locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def free() -> bool:
        with (own_locks / "cpu.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    for step in (Prune, Recalibrate):
        usual = step.apply
        monkeypatch.setattr(step, "apply", lambda *given, usual=usual: (held.append(not free()), usual(*given))[1])
    words = ("--step", PRUNE, "--step", "recalibrate", "--runtime", "eager", "--out", "made")
    assert place.optimize(*words) == 0
    assert held == [False, True]
    assert free()


def test_steps_on_the_command_line_do_what_the_steps_do(place: Place, tmp_path: Path, capsys: Any) -> None:
    assert place.optimize("--step", PRUNE, "--step", "recalibrate", "--runtime", "eager", "--out", "made") == 0
    out = capsys.readouterr().out
    network = load_network(DETECTOR, len(place.classes), place.training)
    wanted = Prune(ratio=0.5).apply(Model(network, None, SIZE), context(tmp_path / "work", DETECTOR)).network
    made = load_file(tmp_path / "made" / "weights.safetensors")
    changed = ("running_mean", "running_var")  # by the second step
    own = {name: tensor for name, tensor in wanted.state_dict().items() if not name.endswith(changed)}
    assert all(torch.equal(made[name], tensor) for name, tensor in own.items())
    artefact = read_artefact(tmp_path / "made")
    assert [next(iter(step)) for step in artefact.recipe["steps"]] == ["prune", "recalibrate"]
    assert artefact.recipe["input_size"] == "64"
    assert (artefact.classes, artefact.params) == (place.classes, sum(p.numel() for p in wanted.parameters()))
    assert "parity with the float network: largest error 0.0e+00" in out
    assert f"made: torch for eager, {artefact.size_mib:.2f} MiB, {artefact.params:,} parameters" in out
    assert place.left() == {"made", "work"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_recipe_file_is_carried_out_and_the_artefact_predicts(place: Place, capsys: Any) -> None:
    steps = [{"prune": {"ratio": 0.5}}, {"finetune": {"epochs": 1, "distill": {}}}, {"quantize": {"images": 4}}]
    recipe = {"input_size": "96x64", "steps": steps, "runtime": "onnxruntime"}
    (place.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert place.optimize("--recipe", "recipe.yaml", "--out", "made") == 0
    out = capsys.readouterr().out
    assert "distill_features" in out
    assert "made: onnx for onnxruntime" in out
    predictor = load_predictor(Path("made"), Target())
    assert predictor.artefact.input_size == InputSize(96, 64)
    assert predictor.facts["precision"] == "int8"
    predictor(np.zeros((40, 50, 3), np.uint8))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_goes_on_from_an_artefact_and_tells_both_recipes(place: Place, capsys: Any) -> None:
    assert place.optimize("--step", PRUNE, "--runtime", "eager", "--out", "once") == 0
    assert place.optimize("--out", "twice", "--data", "job.yaml", "--step", "prune={ratio: 0.3}", source="once") == 0
    once, twice = read_artefact(Path("once")), read_artefact(Path("twice"))
    assert [step["prune"]["ratio"] for step in twice.recipe["steps"]] == [0.5, 0.3]
    assert twice.params < once.params
    assert twice.format == "onnx"
    deployed = [path for path in Path("twice").iterdir() if path.suffix == ".onnx"]
    assert twice.size_mib == sum(path.stat().st_size for path in deployed) / 2**20
    assert read_source(Path("twice")).start.steps == tuple(twice.recipe["steps"])
    assert count(load_network(DETECTOR, len(place.classes), Path("twice/network")), SIZE)[0] == twice.params
    shutil.rmtree("twice/network")
    load_predictor(Path("twice"), Target())(np.zeros((40, 50, 3), np.uint8))
    capsys.readouterr()
    assert place.optimize("--out", "thrice", "--data", "job.yaml", source="twice") == 2
    assert "twice/network/structure.json: damaged or missing" in capsys.readouterr().err
    manifest = Path("twice") / MANIFEST
    older = {key: value for key, value in json.loads(manifest.read_text()).items() if key not in ("network", SEAL)}
    manifest.write_text(json.dumps({**older, "paretune_artefact": 1}))  # as one that kept none
    load_predictor(Path("twice"), Target())
    assert place.optimize("--out", "thrice", "--data", "job.yaml", source="twice") == 2
    assert "is exported (onnx), and steps begin with a torch network" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_quantized_artefact_goes_on_from_its_float_network(place: Place, capsys: Any) -> None:
    small = ("--step", "quantize={images: 4}", "--runtime", "eager", "--data", "job.yaml")
    assert place.optimize("--step", PRUNE, *small, "--out", "once") == 0
    once = read_artefact(Path("once"))
    float_steps = ("--step", PRUNE, "--runtime", "eager", "--data", "job.yaml")
    assert place.optimize(*float_steps, "--out", "float") == 0
    wanted = load_file("float/weights.safetensors")
    kept = load_file("once/network/weights.safetensors")
    assert kept.keys() == wanted.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in wanted.items())
    capsys.readouterr()
    assert place.optimize(*small, "--out", "again", source=Path("once")) == 0
    out = capsys.readouterr().out
    assert "starting from the float network; quantize is not applied again unless you name it" in out
    again = read_artefact(Path("again"))
    assert again.recipe == once.recipe
    assert Path("again/weights.safetensors").read_bytes() == Path("once/weights.safetensors").read_bytes()
    assert not (Path("float") / "network").exists()
    assert once.size_mib < read_artefact(Path("float")).size_mib


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_zeros_that_an_artefact_has_stay_zeros(place: Place) -> None:
    sparse = ("--step", "sparsify={sparsity: 0.6}", "--runtime", "eager")
    assert place.optimize(*sparse, "--out", "sparse") == 0
    tune = ("--step", "finetune={epochs: 1}", "--runtime", "eager", "--data", "job.yaml")
    assert place.optimize(*tune, "--out", "tuned", source=Path("sparse")) == 0
    before, after = (load_file(Path(folder) / "weights.safetensors") for folder in ("sparse", "tuned"))
    layers = [name for name, tensor in before.items() if tensor.ndim == 4 and tensor.eq(0).any()]
    assert len(layers) > 20
    assert all(torch.equal(before[name].eq(0), after[name].eq(0)) for name in layers)
    assert sum(not torch.equal(before[name], after[name]) for name in layers) == len(layers)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_artefact_learns_from_the_uncompressed_network_around_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    teachers: list[Path] = []

    def seen(detector: Any, classes: int, folder: Path) -> torch.nn.Module:
        teachers.append(folder)
        return load_network(detector, classes, folder)

    monkeypatch.setattr("paretune.training.distillation.load_network", seen)
    half = place.training / "half"
    assert place.optimize("--step", PRUNE, "--runtime", "eager", "--out", half) == 0
    taught = ("--step", "finetune={epochs: 1, distill: {}}", "--runtime", "eager", "--data", "job.yaml")
    assert place.optimize(*taught, "--out", "taught", source=half) == 0
    assert [teacher.resolve() for teacher in teachers] == [place.training.resolve()]
    half.rename(place.folder / "elsewhere")
    assert place.optimize(*taught, "--out", "lost", source=Path("elsewhere")) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("elsewhere: lies in no sweep or training")
    assert said.endswith("name its folder as finetune.distill.teacher")
    assert place.left() == {"elsewhere", "taught"}


def test_what_is_quantized_is_not_quantized_again(place: Place, capsys: Any) -> None:
    """An artefact of a Paretune that kept no float network beside the quantized one."""
    network = load_network(DETECTOR, len(place.classes), place.training)
    recipe = {"input_size": "64", "steps": [{"quantize": {}}], "runtime": {"eager": {}}}
    model, told = Model(network, None, SIZE), {"detector": DETECTOR, "runtime": Eager(), "recipe_tree": recipe}
    write_artefact(Path("old"), model, classes=place.classes, **told)
    words = ("--step", "quantize={images: 4}", "--runtime", "eager", "--data", "job.yaml", "--out", "twice")
    assert place.optimize(*words, source=Path("old")) == 2
    assert "quantized already" in capsys.readouterr().err
    assert place.left() == {"old"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_needs_neither_ray_nor_mlflow_nor_optuna(place: Place) -> None:
    code = (
        "import sys; from paretune.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, [m for m in ('ray', 'mlflow', 'optuna') if m in sys.modules])"
    )
    words = ["optimize", str(place.training), "--step", PRUNE, "--out", "made"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step", "prune={ratio: 2}", "--out", "x"], "steps.0.prune.ratio"),
        (["--step", "prun", "--out", "x"], "unknown step 'prun' (did you mean 'prune'?)"),
        (["--step", "=3", "--out", "x"], "--step =3: expected NAME or NAME={FIELDS}"),
        (["--step", "prune=0.5", "--out", "x"], "expected NAME or NAME={FIELDS}, such as 'prune={ratio: 0.5}'"),
        (["--runtime", "tensorflow", "--out", "x"], "unknown runtime 'tensorflow'"),
        (["--input-size", "63", "--out", "x"], "both sides must be even"),
        (["--input-size", "abc", "--out", "x"], "expected one number"),
        (["--recipe", "nowhere.yaml", "--out", "x"], "nowhere.yaml: cannot be read"),
        (["--recipe", "job.yaml", "--out", "x"], "unknown field"),
        (["--recipe", "job.yaml", "--step", "prune", "--out", "x"], "--step: the steps stand in --recipe already"),
        (["--out", "runs"], "runs exists already"),
        (["--seed", "-1", "--out", "x"], "--seed -1: expected 0 or more"),
        (["--data", "nowhere", "--out", "x"], "nowhere"),
        (["--runtime", "openvino", "--device", "cuda", "--out", "x"], "openvino runs on cpu here, not on cuda"),
        (["--step", "finetune={distill: {teacher: gone}}", "--runtime", "eager", "--out", "x"], "gone: no network"),
    ],
)
def test_mistakes_end_with_2_and_leave_nothing(place: Place, words: list[str], message: str, capsys: Any) -> None:
    assert place.optimize(*words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert place.left() == set()


def test_a_wrong_artefact_is_refused_and_does_not_stay(place: Place, monkeypatch: Any, capsys: Any) -> None:
    save = structure.save_network

    def spoiling(network: torch.nn.Module, folder: Path) -> None:
        network = structure.copy_network(network)
        with torch.no_grad():
            DETECTOR.protected(network)[-1].bias.add_(1)
        save(network, folder)

    monkeypatch.setattr(structure, "save_network", spoiling)
    assert place.optimize("--step", PRUNE, "--runtime", "eager", "--out", "made") == 2
    err = capsys.readouterr().err
    assert "optimize: parity: output " in err
    assert "first diverging layer: " in err
    assert place.left() == set()


def test_a_folder_without_a_network_or_of_other_classes_is_refused(place: Place, capsys: Any) -> None:
    assert place.optimize("--out", "x", source=place.folder) == 2
    assert "no trained network" in capsys.readouterr().err
    told = json.loads((place.training / "training.json").read_text())
    (place.training / "training.json").write_text(json.dumps({**told, "classes": ["a", "b"]}))
    assert place.optimize("--out", "x") == 2
    assert "the network finds a, b" in capsys.readouterr().err
    (place.training / "training.json").write_text("{}")
    assert place.optimize("--out", "x") == 2
    assert "training.json: not readable" in capsys.readouterr().err
    assert place.left() == set()
