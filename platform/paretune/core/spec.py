"""The base class of records that people write in YAML, and of the plug-ins in them.

A plug-in is written ``name: {fields}`` or just ``name``. Its fields are its YAML, its MLflow
params, its fingerprint and its documentation (the string under the field).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, get_args

from paretune.core.errors import UserError
from paretune.core.fields import (
    BaseModel,
    ConfigDict,
    InitErrorDetails,
    PydanticCustomError,
    ValidationError,
    model_validator,
)
from paretune.core.registry import Registry

S = TypeVar("S", bound="Spec")
_older_names: ContextVar[dict[str, str] | None] = ContextVar("older_names", default=None)


@contextmanager
def older_names() -> Iterator[dict[str, str]]:
    """Yield a table of the older names that records are given while the block runs: ``prune.of`` → ``prune.budget``."""
    seen: dict[str, str] = {}
    token = _older_names.set(seen)
    try:
        yield seen
    finally:
        _older_names.reset(token)


class Spec(BaseModel):
    """A frozen record that refuses unknown fields and wrong types."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    name: ClassVar[str] = ""
    """The plug-in's name in its table; empty for records that are not plug-ins."""

    renamed: ClassVar[Mapping[str, str]] = {}
    """Older name of a field → its present name; the older one is accepted for one version, with a note."""

    @model_validator(mode="before")
    @classmethod
    def _with_present_names(cls, given: Any) -> Any:
        """Return the fields by their present names."""
        return _present_names(cls, given)  # a function of its own: this one is pickled with all that it refers to

    @classmethod
    def unwritten(cls) -> list[str]:
        """Return the abstract members that this class does not define."""
        return sorted(getattr(cls, "__abstractmethods__", ()))

    def tree(self) -> dict[str, Any]:
        """Return the record as plain data, every field with its value."""
        return self.model_dump(mode="json")

    def named(self) -> dict[str, Any]:
        """Return a plug-in as it is written: ``{name: {fields}}``."""
        return {self.name: self.tree()}


def _present_names(cls: type[Spec], given: Any) -> Any:
    """Return the fields of a record by their present names, and note the older ones.

    Raises:
        ValidationError: a field is given by both of its names.
    """
    old = [name for name in cls.renamed if isinstance(given, Mapping) and name in given]
    if not old:
        return given
    wrong: dict[tuple[str | int, ...], tuple[str, Any]] = {
        (name,): (f"this is the older name of {cls.renamed[name]}: give one of them", given[name])
        for name in old
        if cls.renamed[name] in given
    }
    if wrong:
        raise misplaced(cls.__name__, wrong)
    if (seen := _older_names.get()) is not None:
        owner = cls.name or cls.__name__.lower()
        seen.update({f"{owner}.{name}": f"{owner}.{cls.renamed[name]}" for name in old})
    return {cls.renamed.get(name, name): value for name, value in given.items()}


def parse_plugin(value: Any, registry: Registry[S]) -> S:
    """Read ``name`` or ``{name: {fields}}`` into the plug-in's class.

    Raises:
        PydanticCustomError: not of that form, no such name, or its class is not complete.
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
    if problem := class_problem(cls, name):
        message = f"{registry.kind} {name!r}: {registry.rows[name]} {problem}"
        raise PydanticCustomError("plugin_class", "{message}", {"message": message})
    try:
        return cls.model_validate({} if fields is None else fields)
    except ValidationError as error:
        raise _prefixed(error, name) from None


def class_problem(cls: Any, name: str) -> str | None:
    """Return why a class cannot be the plug-in of a name; None if it can."""
    if not isinstance(cls, type) or not issubclass(cls, Spec):
        return "is no class of a plug-in"
    if missing := cls.unwritten():
        return f"is not complete: write {', '.join(missing)}"
    if cls.name != name:
        return f'has the name {cls.name!r}: write name: ClassVar[str] = "{name}"'
    return None


def misplaced(title: str, found: Mapping[tuple[str | int, ...], tuple[str, Any]]) -> ValidationError:
    """Return an error with several places: place → (message, value)."""
    details = [
        InitErrorDetails(type=PydanticCustomError("unfit", "{message}", {"message": message}), loc=place, input=value)
        for place, (message, value) in found.items()
    ]
    return ValidationError.from_exception_data(title, details)


def _prefixed(error: ValidationError, name: str) -> ValidationError:
    """Return an error whose places begin with the plug-in's name, which pydantic does not know."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(e["type"], "{message}", {"message": e["msg"]}),
            loc=(name, *e["loc"]),
            input=e["input"],
        )
        for e in error.errors()
    ]
    return ValidationError.from_exception_data(error.title, details)


@dataclass(frozen=True)
class PluginOf:
    """Annotation of a field that holds a plug-in: the table of the plug-in."""

    registry: Registry[Any]


def plugin(registry: Registry[Any]) -> Any:
    """Return the annotation for a field that holds one plug-in of a table.

    Use it as ``Annotated[Detector, *plugin(DETECTORS)]``.
    """
    from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

    return (
        PluginOf(registry),
        PlainValidator(lambda value: parse_plugin(value, registry)),
        PlainSerializer(lambda spec: spec.named(), return_type=dict),
        WithJsonSchema({"title": registry.kind, "enum": registry.names}),
    )


def fingerprint(*parts: Any) -> str:
    """Return the sha256 (16 hex digits) of plain data, floats rounded to 12 digits.

    Rounding is needed because Optuna's ``step: 0.05`` yields 0.15000000000000002.
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
        inner = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        if isinstance(inner, Mapping) and inner:
            leaves |= flat({str(k): v for k, v in inner.items()}, f"{place}.")
        else:
            leaves[place] = value
    return leaves


def fields_at(cls: type[Spec], loc: tuple[str | int, ...]) -> list[str]:
    """Return the field names of the record at a location, following plug-ins by their names."""
    record = record_at(cls, loc)
    return [] if record is None else sorted(record.model_fields)


def record_at(cls: type[Spec], loc: tuple[str | int, ...]) -> type[Spec] | None:
    """Return the class of the record at a location, following plug-ins by their names; None if there is no record."""
    current: type[Spec] | None = cls
    registry: Registry[Any] | None = None
    for part in loc:
        if registry is not None and part in registry.rows:
            current, registry = registry.load(str(part)), None
        elif current is not None and part in current.model_fields:
            current, registry = inside(current, str(part))
    return current


def inside(cls: type[Spec], field: str) -> tuple[type[Spec] | None, Registry[Any] | None]:
    """Return the class of the record, or the table of the plug-in, that a field holds."""
    for kind in _walk(cls.model_fields[field].annotation, cls.model_fields[field].metadata):
        if isinstance(kind, Registry):
            return None, kind
        if isinstance(kind, type) and issubclass(kind, Spec) and not getattr(kind, "__abstractmethods__", None):
            return kind, None
    return None, None


def _walk(annotation: Any, metadata: Any = ()) -> list[Any]:
    """Return every class in an annotation and every Registry in its metadata."""
    kinds: list[Any] = [m.registry for m in metadata if isinstance(m, PluginOf)]
    kinds += [annotation] if isinstance(annotation, type) else []
    kinds += [m.registry for m in getattr(annotation, "__metadata__", ()) if isinstance(m, PluginOf)]
    for inner in get_args(annotation):
        kinds += _walk(inner)
    return kinds
