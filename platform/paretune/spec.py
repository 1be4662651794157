"""Spec: the base of everything a person writes in YAML, and plug-ins inside it.

A plug-in is written ``name: {fields}`` or just ``name``. Its fields are its YAML, its MLflow
params, its fingerprint and its documentation (the string under the field).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, WithJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from paretune.errors import UserError
from paretune.registry import Registry

S = TypeVar("S", bound="Spec")


class Spec(BaseModel):
    """A frozen, strict, closed record: unknown fields and wrong types are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    name: ClassVar[str] = ""
    """The plug-in's name in its table; empty for records that are not plug-ins."""

    def tree(self) -> dict[str, Any]:
        """Return the record as plain YAML data, every field with its value."""
        return self.model_dump(mode="json")

    def named(self) -> dict[str, Any]:
        """Return a plug-in as it is written: ``{name: {fields}}``."""
        return {self.name: self.tree()}


def parse_plugin(value: Any, registry: Registry[S]) -> S:
    """Read ``name`` or ``{name: {fields}}`` into the plug-in's class.

    Raises:
        PydanticCustomError: not of that form, or no such name.
        ValidationError: wrong fields; every location begins with the plug-in's name.
    """
    if isinstance(value, Spec):
        return value  # type: ignore[return-value]  # built in Python by hand: pydantic has checked it already
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping) or len(value) != 1 or not isinstance(next(iter(value)), str):
        form = f"expected one {registry.kind}, written `name` or `name: {{fields}}`"
        raise PydanticCustomError("plugin_form", "{form}", {"form": form})
    name, fields = next(iter(value.items()))
    try:
        cls = registry.load(name)
    except UserError as error:
        raise PydanticCustomError("plugin_name", "{message}", {"message": str(error)}) from error
    try:
        return cls.model_validate({} if fields is None else fields)
    except ValidationError as error:
        raise _prefixed(error, name) from None


def _prefixed(error: ValidationError, name: str) -> ValidationError:
    """Put a plug-in's name before the place of each of its errors: pydantic knows only field names."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(e["type"], "{message}", {"message": e["msg"]}),  # type: ignore[arg-type]
            loc=(name, *e["loc"]),
            input=e["input"],
        )
        for e in error.errors()
    ]
    return ValidationError.from_exception_data(error.title, details)


def plugin(registry: Registry[Any]) -> Any:
    """Return the annotation for a field that holds one plug-in of a table.

    Use it as ``Annotated[Detector, *plugin(DETECTORS)]``.
    """
    return (
        BeforeValidator(lambda value: parse_plugin(value, registry)),
        PlainSerializer(lambda spec: spec.named(), return_type=dict),
        WithJsonSchema({"title": registry.kind, "enum": registry.names}),
        Field(strict=False),
    )


def fingerprint(*parts: Any) -> str:
    """Return the sha256 (16 hex digits) of plain data, floats rounded to 12 digits.

    Optuna's ``step: 0.05`` yields 0.15000000000000002: rounding makes equal things equal.
    """
    return hashlib.sha256(json.dumps(_rounded(parts), sort_keys=True).encode()).hexdigest()[:16]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings and lists into ``{"a.b.0": leaf}``."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        place = f"{prefix}{key}"
        if isinstance(value, list | tuple):
            value = dict(enumerate(value))
        if isinstance(value, Mapping) and value:
            leaves |= flat({str(k): v for k, v in value.items()}, f"{place}.")
        else:
            leaves[place] = value
    return leaves
