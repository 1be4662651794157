"""Networks that begin with trained weights: torchvision's, or a checkpoint of the user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from torch import Tensor, nn

from paretune.core.errors import UserError
from paretune.detectors.base import InitialNetwork
from paretune.detectors.checkpoints import Checkpoint, as_class_names, folder_of_weights, read_checkpoint
from paretune.detectors.weight_names import is_checkpoint
from paretune.detectors.weight_recognition import seems_to_be
from paretune.storage.atomic_files import sha256

if TYPE_CHECKING:
    from paretune.detectors.base import Detector

_RENAMED = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
)
"""Names of tensors in torchvision before 0.13, which its published files still have, and those of today."""
_SHOWN = 5
"""Class names that a note lists, at most."""


@dataclass(frozen=True)
class ClassRows:
    """Tensors of a predictor whose first dimension is groups x (classes and background) x values of each."""

    names: str
    """Beginning of their names."""
    groups: int = 1
    values: int = 1


def torchvision_weights(model: str, weights: str) -> dict[str, Tensor]:
    """Return weights of torchvision, checked against the hash in their name whenever they are read.

    Args:
        model: torchvision's name of a model.
        weights: its name of the weights.

    Raises:
        UserError: they lie in no folder of ours, and there is no network to fetch them over; or they are damaged.
    """
    from torchvision.models import get_model_weights

    table: Any = get_model_weights(model)
    folder, url = folder_of_weights(), str(table[weights].url)
    file, begins = folder / Path(url).name, Path(url).stem.rpartition("-")[2]
    if file.is_file() and not (digest := sha256(file)).startswith(begins):  # torch.hub checks only what it fetches
        raise UserError(f"weights {weights} of {model}: {file} is damaged or another file (sha256 {digest}); delete it")
    try:
        state: dict[str, Tensor] = table[weights].get_state_dict(
            progress=False, check_hash=True, model_dir=str(folder), weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"weights {weights} of {model} cannot be fetched ({reason}); put {url} into {folder.absolute()}"
        ) from error
    return state


def torchvision_checkpoint(model: str, weights: str) -> Checkpoint:
    """Return torchvision's weights of a whole detector, with the class names that it publishes beside them.

    Raises:
        UserError: as ``torchvision_weights``.
    """
    from torchvision.models import get_model_weights

    table: Any = get_model_weights(model)
    names = as_class_names(table[weights].meta.get("categories"))
    return Checkpoint(f"weights {weights} of {model}", with_current_names(torchvision_weights(model, weights)), names)


def checkpoint_of(weights: str, digest: str | None, model: str) -> Checkpoint:
    """Return the weights that a field names: a file's, or torchvision's for the model.

    Raises:
        UserError: they cannot be had.
    """
    if not is_checkpoint(weights):
        return torchvision_checkpoint(model, weights)
    checkpoint = read_checkpoint(weights, digest)
    return replace(checkpoint, state=with_current_names(checkpoint.state))


def shapes_differ(network: nn.Module, source: Checkpoint, begins: str) -> bool:
    """Return whether tensors of these names have other shapes in a checkpoint than in a network."""
    own = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(begins)}
    return any(name in source.state and source.state[name].shape != tensor.shape for name, tensor in own.items())


def with_current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by the names that torchvision's detectors have today."""
    renamed = {}
    for name, value in state.items():
        for pattern, new in _RENAMED:
            name = pattern.sub(new, name)  # noqa: PLW2901 - the same tensor
        renamed[name] = value
    return renamed


def initial_network(
    network: nn.Module,
    source: Checkpoint,
    rows: Sequence[ClassRows],
    detector: Detector,
    classes: Sequence[str] | int,
    *,
    background: int = 1,
) -> InitialNetwork:
    """Load a whole detector's weights by their names.

    Predictors are taken class by class where the file has class names, as they are where it has none but as many
    classes, and are left fresh otherwise.

    Args:
        network: with fresh weights; changed in place.
        source: the weights.
        rows: predictors that have rows for each class.
        detector: whose network it is, for messages.
        classes: their names, or only how many there are.
        background: outputs before those of the classes.

    Raises:
        UserError: they are not this network's.
    """
    own, state = network.state_dict(), source.state
    of_classes = {name: row for name in own for row in rows if name.startswith(row.names)}
    _refuse_another(own, state, of_classes, source.what, detector)
    there = _classes_in(state, of_classes, background, source.what)
    count = classes if isinstance(classes, int) else len(classes)
    pairs, notes, fresh = _matched(source, there, classes, count)
    shared = [(number, number) for number in range(background)] if pairs else []
    shared += [(background + one, background + other) for one, other in pairs]
    loaded = {name: value for name, value in state.items() if name in own and name not in of_classes}
    for name, row in of_classes.items():
        mine = own[name].clone().view(row.groups, background + count, row.values, *own[name].shape[1:])
        theirs = state[name].view(row.groups, background + there, row.values, *own[name].shape[1:])
        for here, other in shared:
            mine[:, here] = theirs[:, other].to(mine.dtype)
        loaded[name] = mine.view_as(own[name])
    network.load_state_dict(loaded)
    return InitialNetwork(network, (*source.notes, *notes), fresh)


def _refuse_another(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    of_classes: Mapping[str, ClassRows],
    what: str,
    detector: Any,
) -> None:
    """Compare names and shapes.

    Raises:
        UserError: names the tensors that differ and the network that they seem to be of.
    """
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    skipped = {name: 1 if name in of_classes else 0 for name in own}  # the first dimension depends on the classes
    other = [n for n in own if n in state and own[n].shape[skipped[n] :] != state[n].shape[skipped[n] :]]
    if not (missing or unknown or other):
        return
    messages = [
        *([f"{len(missing)} tensors are missing, such as {missing[0]}"] if missing else []),
        *([f"{len(unknown)} are unknown, such as {unknown[0]}"] if unknown else []),
        *([f"{len(other)} have other shapes, such as {other[0]} {_shapes(own, state, other[0])}"] if other else []),
    ]
    words, ours = seems_to_be(state)
    variant = f"{detector.name} {getattr(detector, 'variant', '')}".strip()
    seems = "it is of no network known here" if words is None else f"it seems to be {words}"
    if ours is not None and ours == variant.replace("_320_", "_"):  # the two differ in nothing but the size of pictures
        seems = "it seems to be one, changed or not whole"
        if not (missing or unknown):
            seems = "fields of the detector, such as its widths, are others"
    raise UserError(f"{what}: not of {variant}: {'; '.join(messages)}; {seems}")


def _shapes(own: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str) -> str:
    one, other = ("x".join(map(str, entry[name].shape)) or "one number" for entry in (state, own))
    return f"({one} in the file, {other} here)"


def _classes_in(state: Mapping[str, Tensor], of_classes: Mapping[str, ClassRows], background: int, what: str) -> int:
    """Return the number of classes that the predictors of a file have.

    Raises:
        UserError: they do not agree, or have none.
    """
    remainders = {name: divmod(len(state[name]), row.groups * row.values) for name, row in of_classes.items()}
    counts = {outputs - background if rest == 0 else -1 for outputs, rest in remainders.values()}
    if len(counts) != 1 or min(counts) < 1:
        lists = ", ".join(f"{name} {len(state[name])}" for name in list(remainders)[:4])
        raise UserError(f"{what}: its predictors do not agree on a number of classes (rows: {lists})")
    return counts.pop()


def _matched(
    source: Checkpoint, there: int, classes: Sequence[str] | int, count: int
) -> tuple[list[tuple[int, int]], list[str], tuple[str, ...]]:
    """Return pairs of a class here and one in the file, notes on them, and the classes without one."""
    what, class_names = source.what, source.classes
    names = None if isinstance(classes, int) else list(classes)
    if class_names is not None and len(class_names) == there and names is not None:
        numbers = {name.casefold().strip(): number for number, name in reversed(list(enumerate(class_names))) if name}
        pairs = [(n, numbers[key]) for n, name in enumerate(names) if (key := name.casefold().strip()) in numbers]
        taken = {one for one, _ in pairs}
        fresh = tuple(name for number, name in enumerate(names) if number not in taken)
        message = f"{what}: of {count} classes {len(pairs)} are in it by their names"
        return (
            pairs,
            [f"{message}; {_some(fresh)} start{'s' if len(fresh) == 1 else ''} afresh" if fresh else message],
            fresh,
        )
    if there == count:
        pairs = [(number, number) for number in range(count)]
        if names is None:
            return pairs, [], ()
        return pairs, [f"{what}: tells no class names; its {there} are taken to be, in this order, {_some(names)}"], ()
    fresh = tuple(names or map(str, range(count)))
    return [], [f"{what}: has {there} classes, the data {count}: what predicts classes starts afresh"], fresh


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
