"""Artefacts on disk: a folder with one manifest, complete or absent, checked when it is read.

An artefact carries all that is needed to use it: the model file, preprocessing, thresholds, class
names, recipe and hashes. No pickle anywhere: networks are safetensors or ONNX.
"""

from __future__ import annotations

import bz2
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError, one_line
from paretune.core.types import InputSize, Thresholds
from paretune.storage.atomic_files import _CHUNK, sha256

MANIFEST = "artefact.json"
STRUCTURE = "structure.json"
"""File that marks a folder of a torch network: the widths of its layers, beside their weights."""
NETWORK = "network"
"""Folder in an artefact's of the network that further steps begin with, where its own files are none to train on."""
VERSION = 2
UNSEALED = 1
"""The version before, whose manifests may lack a seal; it is read too."""
_SEAL = "manifest_sha256"
"""Key of the manifest under which the hash of all the rest of it stands."""


@dataclass(frozen=True)
class FloatNetworkInfo:
    """The float network that an artefact's files were made of, in ``NETWORK``: no prediction reads it."""

    steps: tuple[dict[str, Any], ...]
    """It has gone through, as they are written: the first of the recipe's."""
    notes: tuple[str, ...]
    """Of these steps."""
    files: dict[str, dict[str, Any]]
    """Name → ``{"bytes", "sha256"}``."""


@dataclass(frozen=True)
class Artefact:
    """A deployable detector in a folder; plain data, so that reading it imports no library."""

    folder: Path
    format: str
    """``torch`` (safetensors + structure manifest) or ``onnx``."""
    detector: dict[str, Any]
    """``{name: {fields}}``."""
    runtime: dict[str, Any]
    """``{name: {fields}}``: what the artefact was evaluated and measured on."""
    recipe: dict[str, Any]
    classes: tuple[str, ...]
    input_size: InputSize
    thresholds: Thresholds
    params: int | None = None
    flops: int | None = None
    notes: tuple[str, ...] = ()
    preprocessing: dict[str, Any] | None = None
    """How an image becomes the network's input, as ``Preprocess`` tells it; None where an older Paretune did not."""
    seed: int | None = None
    """Of everything random in the recipe's steps."""
    calibration: dict[str, Any] | None = None
    """The images that ranges of INT8 were taken from, and how; None where none were, or an older Paretune told none."""
    device: str | None = None
    """What the runtime needs, for who reads the manifest without it."""
    kept: FloatNetworkInfo | None = None
    """None: the artefact's own files are the network that further steps begin with, or it was made without one."""

    def file(self, name: str) -> Path:
        """Return the path of one of the artefact's files."""
        return self.folder / name

    @property
    def size_mib(self) -> float:
        """Size of the model files on disk, without the manifest and what is kept for further steps."""
        return sum(path.stat().st_size for path in self._model_files()) / 2**20

    @cached_property
    def coded_mib(self) -> float:
        """Size of the same files compressed: what a download costs, and where clustered and sparse weights gain.

        By bzip2: of clustered weights it makes as little as LZMA in a seventh of the time, 2 to 18 % more than their
        entropy.
        """
        return sum(map(_coded_bytes, self._model_files())) / 2**20

    def _model_files(self) -> list[Path]:
        return [path for path in sorted(self.folder.iterdir()) if path.name != MANIFEST and path.is_file()]


def _coded_bytes(path: Path) -> int:
    """Return the size of a file after bzip2, a stretch at a time in memory."""
    coder, coded = bz2.BZ2Compressor(), 0
    with path.open("rb") as file:
        while stretch := file.read(_CHUNK):
            coded += len(coder.compress(stretch))
    return coded + len(coder.flush())


def facts_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and hash of every file in a folder, as a manifest tells them."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}


def write_manifest(draft: Path, artefact: Artefact) -> None:
    """Write the manifest of the files that lie in ``draft``, with their sizes and hashes: the commit mark."""
    thresholds = artefact.thresholds
    body = {
        "paretune_artefact": VERSION,
        "format": artefact.format,
        "detector": artefact.detector,
        "runtime": artefact.runtime,
        "device": artefact.device,
        "recipe": artefact.recipe,
        "seed": artefact.seed,
        "calibration": artefact.calibration,
        "classes": list(artefact.classes),
        "input_size": str(artefact.input_size),
        "preprocessing": artefact.preprocessing,
        "thresholds": vars(thresholds),
        "params": artefact.params,
        "flops": artefact.flops,
        "notes": list(artefact.notes),
        "files": facts_of(draft),
        "network": None if artefact.kept is None else vars(artefact.kept),
    }
    (draft / MANIFEST).write_text(json.dumps({**body, _SEAL: _seal(body)}, indent=1))


def _seal(body: Mapping[str, Any]) -> str:
    """Return the hash of a manifest without its seal, whatever the order and the spaces in the file."""
    rest = {key: value for key, value in body.items() if key != _SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_artefact(folder: Path, *, files: bool = True) -> Artefact:
    """Read an artefact and check every file of it, but for those of ``kept_network``, against its hash.

    Without ``files``, only the manifest is read and checked.

    Raises:
        UserError: no artefact there, one of another version, or a damaged one.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: not an artefact (a folder with {MANIFEST} is expected)")
    try:
        body = json.loads(path.read_text())
        version = body["paretune_artefact"]
        if version not in (UNSEALED, VERSION):
            raise UserError(f"{path}: artefact version {version!r}; this Paretune reads {UNSEALED} and {VERSION}")
        if body.get(_SEAL) != _seal(body) and (version != UNSEALED or _SEAL in body):
            raise UserError(f"{path}: damaged or edited (its sha256 is not the one in it)")
        if files:
            _check_files(folder, body["files"])
        return Artefact(
            folder=folder,
            format=body["format"],
            detector=body["detector"],
            runtime=body["runtime"],
            recipe=body["recipe"],
            classes=tuple(body["classes"]),
            input_size=InputSize.parse(body["input_size"]),
            thresholds=Thresholds(**body["thresholds"]),
            params=body["params"],
            flops=body["flops"],
            notes=tuple(body["notes"]),
            preprocessing=body.get("preprocessing"),
            seed=body.get("seed"),
            calibration=body.get("calibration"),
            device=body.get("device"),
            kept=_kept(body.get("network")),
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        said = one_line(error)
        raise UserError(f"{path}: not a readable manifest ({type(error).__name__}: {said})") from error


def _kept(told: Mapping[str, Any] | None) -> FloatNetworkInfo | None:
    return None if told is None else FloatNetworkInfo(tuple(told["steps"]), tuple(told["notes"]), dict(told["files"]))


def kept_network(artefact: Artefact) -> Path:
    """Return the folder of the network that an artefact keeps for further steps, once its hashes are found right.

    Raises:
        UserError: it is damaged or gone.
    """
    folder = artefact.folder / NETWORK
    _check_files(folder, artefact.kept.files if artefact.kept else {})
    return folder


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare the files of a folder with what the artefact's manifest says of them.

    Raises:
        UserError: none are told, a name that leads elsewhere, or a file that is another.
    """
    if not files:
        raise UserError(f"{folder / MANIFEST}: tells of no files")
    for name, facts in files.items():
        file = folder / name
        if name in {"", ".", ".."} or file.name != name or "\0" in name:
            raise UserError(f"{folder / MANIFEST}: {name!r} is no name of a file beside it")
        if not file.is_file() or file.stat().st_size != facts["bytes"] or sha256(file) != facts["sha256"]:
            raise UserError(f"{file}: damaged or missing (its sha256 is not the one in {MANIFEST})")
