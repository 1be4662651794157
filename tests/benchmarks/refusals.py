"""Broken artefacts and impossible wishes: each ends with 2 and one clear line, and leaves nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from compressed import FOLDER, optimized
from figures import Figures, paretune
from PIL import Image
from training import Case, trained

from paretune.storage.artefact import MANIFEST, read_artefact, write_manifest

WISHES = {
    "prune: {ratio: 1.5}": "prune.ratio",
    "prune: {ratio: 0.999, budget: flops}": "0.999",
    "factorize: {rank: 0}": "factorize.rank",
    "factorize: {energy: 1.5}": "factorize.energy",
    "cluster: {bits: 0}": "cluster.bits",
    "sparsify: {sparsity: 1}": "sparsify.sparsity",
}
"""Step → what the line must name."""
CALIBRATED = {"onnxruntime": "onnxruntime", "nncf": "openvino"}
"""Tool that quantizes → runtime it is for."""


def fill(case: Case, root: Path, figures: Figures) -> None:
    """Try each fault once with the network of one case."""
    source = trained(case, 0, root).folder
    whole = FOLDER / case.job / "whole"
    if reason := optimized(source, [], "onnxruntime", whole, source):
        raise RuntimeError(f"{case.name}: {reason}")
    good = []
    with TemporaryDirectory() as made:
        place = Path(made)
        grey = _one_grey_image(source, root / case.dataset[1], place)
        picture = str(next((place / "JPEGImages").iterdir()))
        for name, (damage, named) in DAMAGES.items():
            broken = shutil.copytree(whole, place / "broken")
            damage(broken)
            good.append(_refused(name, named, "predict", str(broken), picture, "--out", str(place / "picture.png")))
            shutil.rmtree(broken)
        for step, named in WISHES.items():
            words = ("--step", step.replace(": ", "=", 1), "--out", str(place / "made"))
            done = _refused(step, named, "optimize", str(source), *words, "--data", str(source / "job.yaml"))
            good.append(done and not (place / "made").exists())
        for tool, runtime in CALIBRATED.items():
            words = ("--step", f"quantize={{tool: {tool}}}", "--runtime", runtime, "--out", str(place / "made"))
            done = _refused(
                f"one grey image, {tool}", "one colour", "optimize", str(source), *words, "--data", str(grey)
            )
            good.append(done and not (place / "made").exists())
    figures.add(f"{case.name}: faults of {len(good)} told in one clear line", sum(good), at_least=len(good))


def _refused(name: str, named: str, *words: str) -> bool:
    done = paretune(*words, check=False)
    said = done.stderr.strip().splitlines() or [""]
    fine = done.returncode == 2 and named in said[-1] and not any("Traceback" in line for line in said)
    print(f"{name}: {'' if fine else 'NOT AS PROMISED: '}{said[-1]}", flush=True)
    return fine


def _truncate(folder: Path) -> None:
    file = folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1000])


def _flip(folder: Path) -> None:
    file = folder / "model.onnx"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def _newer(folder: Path) -> None:
    """Make it a file of a later ONNX than the runtime that is installed reads."""
    import onnx

    artefact, model = read_artefact(folder), onnx.load(folder / "model.onnx")
    model.ir_version = 99
    onnx.save(model, folder / "model.onnx")
    (folder / MANIFEST).unlink()
    write_manifest(folder, artefact)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (_truncate, "model.onnx: damaged"),
    "a bit flipped": (_flip, "model.onnx: damaged"),
    "of a later version": (_newer, "does not run it here"),
}
"""Damage → what the line must say."""


def _one_grey_image(source: Path, dataset: Path, place: Path) -> Path:
    """Write a job whose training split is one image, all of one colour; the other splits stay as they are."""
    (place / "Annotations").symlink_to((dataset / "Annotations").resolve())
    lists, pictures = place / "ImageSets" / "Main", place / "JPEGImages"
    shutil.copytree(dataset / "ImageSets" / "Main", lists)
    name = (lists / "train.txt").read_text().split()[0]
    (lists / "train.txt").unlink()
    (lists / "train.txt").write_text(f"{name}\n")
    pictures.mkdir()
    for picture in (dataset / "JPEGImages").iterdir():
        if picture.stem == name:
            with Image.open(picture) as image:
                shape = (image.height, image.width, 3)
            Image.fromarray(np.full(shape, 128, np.uint8)).save(pictures / picture.name)
        else:
            (pictures / picture.name).symlink_to(picture.resolve())
    job = yaml.safe_load((source / "job.yaml").read_text())
    job["dataset"]["voc"]["root"] = str(place)
    told = place / "job.yaml"
    told.write_text(yaml.safe_dump(job))
    return told
