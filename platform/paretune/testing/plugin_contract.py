"""What plug-ins of every kind must do."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from paretune.core.registry import Registry
from paretune.core.spec import Spec, parse_plugin
from paretune.testing.heavy_imports import heavy_imports


class PluginContract:
    """Tests of a plug-in as a record: its row, its documentation, its YAML, what its file imports."""

    plugin: ClassVar[Any]
    """The plug-in under test; a class whose plug-in needs files overrides the fixture ``subject`` in its place."""
    table: ClassVar[Registry[Any]]
    """The table of its kind."""
    table_module: ClassVar[str]
    """The module that holds the table."""
    table_name: ClassVar[str]
    """The table's name in it."""
    heavy: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "cv2", "onnx")
    """Libraries that the plug-in's file must not import."""
    touch: ClassVar[str] = ""
    """A statement with the plug-in as ``made`` that must not import them either."""

    @pytest.fixture
    def subject(self) -> Any:
        """Return the plug-in under test."""
        return self.plugin

    def test_is_found_by_its_name(self, subject: Spec) -> None:
        """Its row in the table, or its installed entry point, leads to its class."""
        kind = self.table.kind
        assert subject.name in self.table.rows, (
            f"no installed package has the entry point paretune.{kind} with this name"
        )
        assert self.table.load(subject.name) is type(subject)

    def test_is_documented(self, subject: Spec) -> None:
        """The class and every field have a docstring, which `paretune plugins` prints."""
        assert type(subject).__doc__
        assert [name for name, field in type(subject).model_fields.items() if not field.description] == []

    def test_is_read_as_it_was_written(self, subject: Spec) -> None:
        """What is written into YAML and JSON gives an equal plug-in when it is read."""
        assert parse_plugin(subject.named(), self.table) == subject
        assert parse_plugin(json.loads(json.dumps(subject.named())), self.table) == subject

    def test_its_file_imports_no_heavy_library(self, subject: Spec) -> None:
        """Its file is imported by `paretune check`, which is to take a second."""
        assert heavy_imports(self.table_module, self.table_name, self.heavy, self.touch, [subject.name]) == ""
