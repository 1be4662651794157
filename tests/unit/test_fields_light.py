"""Records without pydantic take and refuse what records with it do; validators alone are not run."""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

import paretune
from paretune.core.fields import ValidationError
from paretune.core.target import Target
from paretune.data.preprocess import Preprocess
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.yolox.detector import Yolo
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.runtimes.openvino import OpenVino

WHOLE = {cls.__name__: cls for cls in (Yolo, Ssd, FasterRcnn, OnnxRuntime, OpenVino, Target)}
GIVEN: list[tuple[str, dict[str, Any]]] = [
    ("Yolo", {}),
    ("Yolo", {"variant": "s", "depth": None, "width": 0.5, "depthwise": True, "weights": None}),
    ("Yolo", {"width": 1}),
    ("Yolo", {"variant": "xxl"}),
    ("Yolo", {"width": "0.5"}),
    ("Yolo", {"width": 9.0}),
    ("Yolo", {"depthwise": 1}),
    ("Yolo", {"anchors": 3}),
    ("Yolo", {"variant": 7, "anchors": 3}),
    ("Ssd", {"smallest": 0.07, "largest": 0.9}),
    ("Ssd", {"smallest": 0}),
    ("Ssd", {"smallest": True}),
    ("Ssd", {"weights": 5}),
    ("FasterRcnn", {"proposals": 300, "min_proposal_score": 0, "anchor": 16}),
    ("FasterRcnn", {"proposals": 300, "least": 0.2}),
    ("FasterRcnn", {"min_proposal_score": 0.1, "least": 0.2}),
    ("FasterRcnn", {"least": 2}),
    ("FasterRcnn", {"proposals": 0}),
    ("FasterRcnn", {"proposals": 1.5}),
    ("FasterRcnn", {"head_width": 8}),
    ("OnnxRuntime", {"provider": "cuda", "precision": "fp32"}),
    ("OnnxRuntime", {"provider": "rocm"}),
    ("OpenVino", {"precision": "bf16"}),
    ("OpenVino", {"precision": None}),
    ("Target", {"device": "cuda", "threads": 4}),
    ("Target", {"threads": 0}),
    ("Target", {"threads": 2000}),
    ("Target", {"threads": True}),
    ("Target", {"threads": "2"}),
]


@pytest.fixture(scope="module")
def light() -> Iterator[Callable[[str, str], Any]]:
    """The package's modules once more, imported where there is no pydantic: name of a module, of what is in it."""
    imported = builtins.__import__

    def without(name: str, *words: Any, **more: Any) -> ModuleType:
        if name.partition(".")[0] in ("pydantic", "pydantic_core"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, *words, **more)

    own = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "paretune"}
    with pytest.MonkeyPatch.context() as patch:
        for name in own:
            patch.delitem(sys.modules, name)
        patch.setattr(builtins, "__import__", without)
        found = {
            name: importlib.import_module(f"paretune.{name}")
            for name in (
                "detectors.yolox.detector",
                "detectors.ssd.detector",
                "detectors.faster_rcnn.detector",
                "runtimes.onnxruntime",
                "runtimes.openvino",
                "core.target",
                "data.preprocess",
                "core.fields",
                "core.registry",
                "core.spec",
            )
        }
        patch.undo()
        for name in [name for name in sys.modules if name.partition(".")[0] == "paretune"]:
            del sys.modules[name]
        sys.modules.update(own)
        for name, module in own.items():  # a submodule is also an attribute of its package
            package, _, last = name.rpartition(".")
            if package:
                setattr(own[package], last, module)
    yield lambda module, name: getattr(found[module], name)
    assert sys.modules["paretune"] is paretune


def module_of(name: str) -> str:
    return WHOLE[name].__module__.removeprefix("paretune.")


def read(cls: Any, given: dict[str, Any], refusal: type[Any]) -> tuple[Any, set[tuple[Any, ...]]]:
    """The record, and no place; or None, and the places of what is wrong."""
    try:
        return cls.model_validate(given), set()
    except refusal as error:
        return None, {told["loc"] for told in error.errors() if told["msg"]}


@pytest.mark.parametrize(("name", "given"), GIVEN, ids=str)
def test_a_record_is_taken_or_refused_as_with_pydantic(
    name: str, given: dict[str, Any], light: Callable[[str, str], Any]
) -> None:
    cls = light(module_of(name), name)
    assert not issubclass(cls, WHOLE[name])
    whole, wrong = read(WHOLE[name], given, ValidationError)
    made, refused = read(cls, given, light("core.fields", "ValidationError"))
    assert bool(wrong) == bool(refused)
    assert refused <= wrong
    if whole is None:
        return
    assert made.named() == whole.named()
    by_hand = cls(**{cls.renamed.get(field, field): value for field, value in given.items()})
    assert (made, hash(made)) == (by_hand, hash(by_hand))
    assert made != (cls(threads=8) if name == "Target" else object())


def test_records_cannot_be_changed(light: Callable[[str, str], Any]) -> None:
    target = light("core.target", "Target")()
    with pytest.raises(AttributeError):
        target.threads = 3
    with pytest.raises(TypeError):
        light("core.target", "Target")(cores=3)


def test_plug_ins_are_read_from_manifests(light: Callable[[str, str], Any]) -> None:
    class Table(light("core.registry", "Registry")):  # type: ignore[misc]
        def load(self, name: str) -> Any:
            return light("detectors.yolox.detector", "Yolo") if name == "yolo" else super().load(name)

    parse, table = (
        light("core.spec", "parse_plugin"),
        Table("detector", {"yolo": "paretune.detectors.yolox.detector:Yolo"}),
    )
    assert parse({"yolo": {"width": 0.125}}, table).width == 0.125
    with pytest.raises(light("core.fields", "PydanticCustomError")) as unknown:
        parse({"yoolo": {}}, table)
    assert "did you mean 'yolo'" in unknown.value.message()
    with pytest.raises(light("core.fields", "ValidationError")) as refused:
        parse({"yolo": {"width": "wide"}}, table)
    assert [told["loc"] for told in refused.value.errors()] == [("yolo", "width")]


def test_preprocessing_is_read_from_manifests(light: Callable[[str, str], Any]) -> None:
    for own in (Yolo().preprocess, Ssd().preprocess, FasterRcnn().preprocess):
        tree = own.tree()
        assert light("data.preprocess", "Preprocess").parse(tree).tree() == tree
        listed = {**tree, "mean": list(tree["mean"]), "std": list(tree["std"])}  # as JSON has it
        assert light("data.preprocess", "Preprocess").parse(listed).tree() == Preprocess.parse(listed).tree()
        for wrong in ({"resize": "crop"}, {"scale": "1"}, {"fill": None}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                light("data.preprocess", "Preprocess").parse({**tree, **wrong})
