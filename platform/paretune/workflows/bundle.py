"""Bundles: a copy of an artefact with a loader that needs only the runtime and numpy, a model card and hashes."""

from __future__ import annotations

import ast
import inspect
import json
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from paretune import __version__
from paretune.core.errors import UserError, one_line
from paretune.core.spec import parse_plugin
from paretune.core.target import Target
from paretune.core.types import SURE, Floats
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.results.locate import target_around
from paretune.runtimes import RUNTIMES
from paretune.runtimes.base import Runtime
from paretune.runtimes.onnx_session import part_file
from paretune.storage.artefact import BUNDLE, BUNDLE_FILES, BUNDLE_MANIFEST, MANIFEST, Artefact, facts_of, read_artefact
from paretune.storage.atomic_files import new_folder, sha256
from paretune.workflows.model_card import model_card

VERSION = 2
"""Version of ``bundle.json``; 1 had no loader."""
_TEMPLATES = files("paretune.runtimes") / "loaders"


def write_copy(
    source: Path, folder: Path, facts: Mapping[str, Any], target: Target, *, replace: bool = False
) -> dict[str, Any]:
    """Write a bundle of an artefact, whole or not at all.

    Args:
        source: folder of the artefact.
        folder: to make.
        facts: of ``bundle.json``: where the artefact comes from and its figures.
        target: that the loader runs it on.
        replace: whether an older bundle is replaced.

    Returns:
        The contents of ``bundle.json``. Its ``loader_missing`` says why there is no ``detect.py``, or is None.

    Raises:
        UserError: the artefact is missing or damaged, or the folder exists or cannot be written.
    """
    read_artefact(source, files=False)
    try:
        with new_folder(folder, replace=replace) as draft:
            shutil.copytree(source, draft, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*BUNDLE_FILES))
            artefact = read_artefact(draft)
            whole = {"paretune_bundle": VERSION, "paretune": __version__, **facts}
            whole["artefact_sha256"] = sha256(draft / MANIFEST)
            whole["loader_missing"] = write_loader(artefact, target, facts.get("libraries") or {})
            (draft / BUNDLE).write_text(json.dumps(whole, indent=1))
            (draft / "README.md").write_text(model_card(artefact, whole), encoding="utf-8")
            told = {"files": facts_of(draft)}
            (draft / BUNDLE_MANIFEST).write_text(json.dumps(told, indent=1))
    except FileExistsError:
        raise UserError(f"{folder} exists already; name a new folder with --out") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    return whole


def export_artefact(source: Path, out: Path) -> dict[str, Any]:
    """Write a bundle of an artefact in a folder; of a bundle, its facts are kept.

    Raises:
        UserError: as `write_copy`.
    """
    target = target_around(source)
    facts: dict[str, Any] = {"target": {"name": "", **(target or Target()).tree()}}
    read_artefact(source, files=False)
    if (source / BUNDLE).is_file():
        facts = json.loads((source / BUNDLE).read_text())
        for name in ("paretune_bundle", "paretune"):
            facts.pop(name, None)
    return write_copy(source, out, facts, target or Target())


def write_loader(artefact: Artefact, target: Target, libraries: Mapping[str, str]) -> str | None:
    """Write ``detect.py`` with what it needs into an artefact's folder.

    Args:
        artefact: to be loaded.
        target: that it runs on.
        libraries: package → version that the figures were measured with.

    Returns:
        Why there is no loader, or None.
    """
    name = next(iter(artefact.runtime))
    told = next(iter(artefact.detector))
    if not _template(name):
        return f"runtime {name} is of another package, which brings no loader: only Paretune itself runs it"
    foreign = f"detector {told} is of another package, which brings no decoding: only Paretune itself runs it"
    if not _template(told):
        return foreign
    detector: Detector = parse_plugin(artefact.detector, DETECTORS)
    decoding = detector.decoding(artefact.input_size)
    if decoding is None:
        return foreign
    runtime: Runtime = parse_plugin(artefact.runtime, RUNTIMES)
    try:
        networks, options = _networks(artefact, detector, runtime, target)
    except Exception as error:  # noqa: BLE001 - torch and its exporter raise errors of their own
        return f"its network cannot be saved without Paretune ({one_line(error)}): only Paretune itself runs it"
    sources, constants = decoding
    settings = {
        "classes": artefact.classes,
        "input_size": [artefact.input_size.width, artefact.input_size.height],
        "preprocessing": artefact.preprocessing or detector.preprocess.tree(),
        "thresholds": vars(artefact.thresholds),
        "shown": SURE,
        "device": target.device,
        "threads": target.threads,
        "runtime": {"name": name, **options},
        "networks": networks,
        "decoding": constants,
    }
    written = {
        "settings.json": json.dumps(settings, indent=1, ensure_ascii=False) + "\n",
        "detect.py": _template(name) + _template("detect_end"),
        "detection_math.py": "\n\n".join([_template("math_begin"), *map(_source, sources), _template(told)]).rstrip()
        + "\n",
        "requirements.txt": _requirements(runtime, target, libraries),
    }
    for file, text in written.items():
        artefact.file(file).write_text(text, encoding="utf-8")
    return None


def _template(name: str) -> str:
    """Return a template; empty if there is none."""
    file = _TEMPLATES / f"{name}.py.txt"
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _source(decodes: Any) -> str:
    """Return the source of a module or function, without the module's docstring and imports."""
    text = inspect.getsource(decodes)
    if not inspect.ismodule(decodes):
        return text
    nodes = ast.parse(text).body
    left_out = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)] + nodes[:1]
    gone = {line for node in left_out for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    return "\n".join(line for number, line in enumerate(text.splitlines(), 1) if number not in gone).strip()


def _requirements(runtime: Runtime, target: Target, libraries: Mapping[str, str]) -> str:
    """Return the packages of a loader, in the versions that were measured, or else are installed here."""
    packages = ["onnxruntime-gpu" if target.device != "cpu" else "onnxruntime"]
    lines = []
    for package in [*(packages if runtime.name == "onnxruntime" else runtime.libraries), "numpy"]:
        found = libraries.get(package)
        if found is None:
            try:
                found = version(package)
            except PackageNotFoundError:
                lines.append(package)
                continue
        lines.append(f"{package}=={found.partition('+')[0]}")
    return "\n".join(lines) + "\n"


def _networks(
    artefact: Artefact, detector: Detector, runtime: Any, target: Target
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return file, input and outputs of each network, and the runtime's options, after writing missing files."""
    names = {part: part_file(part) for part in detector.part_names}
    options = runtime.tree()
    if runtime.accepts == "torch":
        names = _save_programs(artefact, detector, runtime.precision)
    elif runtime.name == "onnxruntime":
        options["providers"] = _providers(runtime, target, [artefact.file(file) for file in names.values()])
    elif runtime.name == "tensorrt" and runtime.precision == "fp16":
        from paretune.runtimes.tensorrt import halved

        for part, file in names.items():
            names[part] = file.replace(".onnx", ".fp16.onnx")
            artefact.file(names[part]).write_bytes(halved(artefact.file(file)))
    networks = {
        part: {"file": file, "input": detector.part_input(part), "outputs": list(detector.part_outputs(part))}
        for part, file in names.items()
    }
    return networks, options


def _providers(runtime: Any, target: Target, models: list[Path]) -> list[list[Any]]:
    """Return ONNX Runtime's providers with their options, best first."""
    word = target.device if runtime.provider == "auto" else runtime.provider
    if word == "cpu":
        return [["CPUExecutionProvider", {}]]
    cuda = ["CUDAExecutionProvider", {"use_tf32": "0"}]
    if word == "cuda":
        return [cuda]
    from paretune.runtimes.onnx_header import contents_of

    int8 = any(contents_of(file).precision == "int8" for file in models)
    options = {"trt_fp16_enable": "1", "trt_int8_enable": str(int(int8)), "trt_sparsity_enable": "1"}
    return [["TensorrtExecutionProvider", options], cuda]


def _save_programs(artefact: Artefact, detector: Detector, precision: Any) -> dict[str, str]:
    """Write the networks of a torch artefact as programs that torch loads by itself; return their files."""
    import torch

    from paretune.runtimes.eager import ArrayConversion, load_for_inference

    network = load_for_inference(artefact, Target(), precision)
    convert, names = ArrayConversion("cpu", precision), dict[str, str]()

    def saved(part: str, module: Any) -> Any:
        def run(batch: Floats) -> tuple[Floats, ...]:
            names[part] = part_file(part, "pt2")
            tensor = convert.tensor(batch)
            torch.export.save(torch.export.export(module.eval(), (tensor,)), artefact.file(names[part]))
            with torch.inference_mode():
                return convert.arrays(module(tensor))

        return run

    size = artefact.input_size
    parts = {part: saved(part, module) for part, module in detector.part_modules(network).items()}
    detector.run(parts, np.zeros((1, 3, size.height, size.width), np.float32), size)
    return names
