"""A network on disk: its weights, and the channel counts of its layers.

The architecture is the detector's own code; the manifest lists only where a network departs from it
(pruned channels, layers in place of others). No pickle and no code in it, so a network from somebody
else can be opened.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from paretune.core.errors import UserError, one_line
from paretune.core.types import InputSize
from paretune.detectors.base import Detector
from paretune.networks.layer_kinds import kind_of
from paretune.networks.replacement_layers import replace_layers, replaced, whole_number
from paretune.storage.artefact import STRUCTURE, WEIGHTS
from paretune.storage.atomic_files import sync, write_text

VERSION = 1
_TOLD = 300
"""Characters of a message of torch's, which names every tensor that does not fit."""
_ALWAYS_SAVED = ("conv2d", "batchnorm2d", "linear")
"""Kinds of layers that every ``structure.json`` lists; files of an older Paretune list no others."""


def save_network(network: nn.Module, folder: Path) -> None:
    """Write a network into a folder; the structure comes last, so that it marks a complete one.

    Raises:
        ValueError: a weight is not finite.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"the network cannot be saved: {name} is not finite")
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{WEIGHTS}.part"
    draft.unlink(missing_ok=True)
    draft.touch()
    usual = draft.stat().st_mode  # that of any new file here; safetensors' own can be read by nobody else
    # a copy of each: safetensors refuses tensors that share memory, and a module may be used twice
    save_file({name: tensor.clone() for name, tensor in state.items()}, draft)
    draft.chmod(usual)
    sync(draft)
    draft.replace(folder / WEIGHTS)
    body = {"paretune_structure": VERSION, "layers": layers(network), "replaced": replaced(network)}
    write_text(folder / STRUCTURE, json.dumps(body, indent=1))


def load_network(detector: Detector, num_classes: int, folder: Path) -> nn.Module:
    """Build the detector's network, bring its layers to the saved channel counts, load the weights.

    Returns:
        The network in eval mode on the CPU.

    Raises:
        UserError: no network there, a damaged one, or one of another detector.
    """
    path = folder / STRUCTURE
    if not path.is_file():
        raise UserError(f"{folder}: no network (a folder with {STRUCTURE} and {WEIGHTS} is expected)")
    try:
        body = json.loads(path.read_text())
        if body["paretune_structure"] != VERSION:
            raise UserError(f"{path}: structure version {body['paretune_structure']}; this Paretune reads {VERSION}")
        saved, others = dict(body["layers"]), dict(body.get("replaced", {}))
        weights = load_file(folder / WEIGHTS)
    except (KeyError, TypeError, ValueError, OSError, RecursionError, SafetensorError) as error:
        raise UserError(f"{folder}: not a readable network ({type(error).__name__}: {error})") from error
    with torch.random.fork_rng(
        devices=[]
    ):  # the fresh weights are thrown away: do not use up the caller's random numbers
        network = detector.build(num_classes)
    try:
        replace_layers(network, others)
        _resize(network, saved)
        _resize_lone(network, saved, weights)
        network.load_state_dict(weights, strict=True, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = one_line(error)[:_TOLD]
        raise UserError(f"{path}: not a network of detector {detector.named()}: {reason}") from error
    for parameter in network.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_()
    return network.eval()


def layers(network: nn.Module) -> dict[str, dict[str, Any]]:
    """Return kind and channel counts of every layer that has channels, by its name in the network."""
    arrays: dict[str, dict[str, Any]] = {}
    for name, module in network.named_modules():
        if (kind := kind_of(module)) is not None:
            arrays[name] = {"kind": kind.name, **{count: int(getattr(module, count)) for count in kind.counts}}
    return arrays


def copy_network(network: nn.Module) -> nn.Module:
    """Return a copy that shares nothing with the network; gradients are not copied."""
    copied = copy.deepcopy(network)
    copied.zero_grad(set_to_none=True)
    return copied


def count(network: nn.Module, size: InputSize) -> tuple[int, int]:
    """Return (parameters, floating-point operations of one image), 2 x multiply-adds.

    Counted on what torch really runs: convolutions and matrix products; the network is left in the
    mode and on the device it was.
    """
    from torch.utils.flop_counter import FlopCounterMode

    first = next(network.parameters())
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, size.height, size.width, device=first.device, dtype=first.dtype))
    finally:
        network.train(training)
    return parameters_of(network), int(counter.get_total_flops())


def parameters_of(network: nn.Module) -> int:
    """Return the number of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def _resize(network: nn.Module, saved: dict[str, dict[str, Any]]) -> None:
    """Bring layers to the saved channel counts; the shapes of their tensors come with the weights.

    Raises:
        ValueError: the layers are not those of this network.
    """
    own = layers(network)
    lacking = [name for name in own.keys() - saved.keys() if own[name]["kind"] in _ALWAYS_SAVED]
    if odd := sorted([*lacking, *(saved.keys() - own.keys())]):
        raise ValueError(f"layers differ ({len(odd)}, such as {odd[0]!r})")
    for name, form in saved.items():
        if form == own[name]:
            continue
        if form.keys() != own[name].keys() or form["kind"] != own[name]["kind"]:
            raise ValueError(f"layer {name!r} is {form}, expected the form of {own[name]}")
        module = network.get_submodule(name)
        for attribute, value in form.items():
            if attribute != "kind":
                setattr(module, attribute, whole_number(value, f"layer {name!r}: {attribute}"))
        _empty(module)


def _resize_lone(network: nn.Module, layers_saved: Collection[str], weights: dict[str, torch.Tensor]) -> None:
    """Resize parameters of no saved layer, such as the scales of a norm of another kind, to their saved shapes."""
    for module_name, module in network.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            saved = weights.get(f"{module_name}.{name}".lstrip("."))
            if module_name in layers_saved or saved is None or saved.ndim != parameter.ndim:
                continue
            if saved.shape != parameter.shape:
                setattr(module, name, nn.Parameter(torch.empty(saved.shape, device="meta")))


def _empty(module: nn.Module) -> None:
    """Replace a layer's tensors by ones without memory, of the shapes of its channel counts; the weights follow."""
    kind = kind_of(module)
    if kind is None:
        raise TypeError(f"{type(module).__name__} has no channel counts")
    for name, shape in kind.shapes(module).items():
        old = getattr(module, name)
        if old is not None:
            fresh = torch.empty(shape, device="meta")
            setattr(module, name, nn.Parameter(fresh) if isinstance(old, nn.Parameter) else fresh)


def outputs_of(detector: Detector, network: nn.Module) -> list[int]:
    """Return the outputs of a network's predictors: no pruning changes them."""
    counts, predictors = layers(network), {id(module) for module in detector.protected(network)}
    names = [name for name, module in network.named_modules() if id(module) in predictors]
    return [value for name in names for key, value in counts[name].items() if key.startswith("out_")]
