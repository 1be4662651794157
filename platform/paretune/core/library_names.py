"""Names from libraries, so that ``paretune check`` knows them without importing the libraries.

Tests compare each table with the installed library.
"""

from __future__ import annotations

from pathlib import Path

from paretune.core.errors import did_you_mean

OPTIMIZERS = (
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
)
"""Classes of torch.optim that train any network with no argument but a learning rate; others are tried."""

IMPORTANCES = {
    "l1": "MagnitudeImportance",
    "l2": "MagnitudeImportance",
    "lamp": "LAMPImportance",
    "fpgm": "FPGMImportance",
    "bn_scale": "BNScaleImportance",
    "random": "RandomImportance",
}
"""Criterion of pruning → class of torch-pruning."""

SENSITIVITIES = ("taylor", "hessian")
"""Criteria of pruning that need gradients of the training loss, computed by this package."""


WEIGHTS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("COCO_V1",),
    "fasterrcnn_mobilenet_v3_large_fpn": ("COCO_V1",),
    "fasterrcnn_resnet50_fpn": ("COCO_V1",),
    "fasterrcnn_resnet50_fpn_v2": ("COCO_V1",),
    "ssd300_vgg16": ("COCO_V1", "IMAGENET1K_FEATURES"),
    "ssdlite320_mobilenet_v3_large": ("COCO_V1", "IMAGENET1K_V1", "IMAGENET1K_V2"),
}
"""Detector of torchvision → names of its weights, for the whole network or for the backbone."""


CHECKPOINTS = (".pth", ".pt", ".tar", ".ckpt", ".safetensors")
"""Suffixes of checkpoint files."""


def is_url(text: str) -> bool:
    """Return whether a text is a URL."""
    return text.startswith(("http://", "https://"))


def is_checkpoint(weights: str | None) -> bool:
    """Return whether weights are a file or a URL and not a name."""
    return weights is not None and (is_url(weights) or weights.endswith(CHECKPOINTS))


def known_weights(weights: str, model: str) -> str:
    """Return weights that are a file, a URL, or one of torchvision's names for the model.

    Raises:
        ValueError: they are none of these; the message suggests the nearest name.
    """
    known = WEIGHTS.get(model, ())
    if weights not in known and not is_checkpoint(weights):
        expected = f"{', '.join(known)}, a URL, or a file ({', '.join(CHECKPOINTS)})"
        raise ValueError(f"no such weights of {model}: {weights!r}{did_you_mean(weights, known)}; expected {expected}")
    return weights


def hash_problem(weights: str | None, sha256: str | None) -> str | None:
    """Return why a URL lacks its hash, or why a name has one that it does not need; None if neither."""
    if weights is not None and is_url(weights) and sha256 is None:
        return f"weights {weights}: give the file's hash too, as `sha256: …`"
    if sha256 is not None and not is_checkpoint(weights):
        return "sha256 is of a file or an address that weights names"
    return None


def missing_file(weights: str | None) -> list[str]:
    """Return a line if a file of weights does not exist; URLs and names are not looked up."""
    if weights is None or is_url(weights) or not weights.endswith(CHECKPOINTS):
        return []
    return [] if Path(weights).expanduser().is_file() else [f"weights {weights}: no such file"]
