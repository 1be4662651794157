"""A substitute for pydantic in a deployment: checks names, types and limits of fields, and runs no validators.

A deployment reads only manifests, whose values were validated and sealed with a hash when they were written.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
ConfigDict = InitErrorDetails = dict
ValidationInfo = Any
_LIMITS: dict[str, Callable[[Any, Any], bool]] = {
    "ge": lambda value, limit: value >= limit,
    "gt": lambda value, limit: value > limit,
    "le": lambda value, limit: value <= limit,
    "lt": lambda value, limit: value < limit,
}


class PydanticCustomError(ValueError):
    """One mistake, with a message template."""

    def __init__(self, kind: str, template: str, context: Mapping[str, Any]) -> None:
        super().__init__(template.format(**context))
        self.type = kind

    def message(self) -> str:
        """Return the message."""
        return str(self)


class ValidationError(ValueError):
    """Every mistake in one record."""

    def __init__(self, title: str, details: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, d['loc']))}: {d['type']}" for d in details))
        self.title = title
        self._details = details

    @classmethod
    def from_exception_data(cls, title: str, details: Sequence[Mapping[str, Any]]) -> Self:
        """Return the error with these details, each with ``type`` (the mistake), ``loc`` and ``input``."""
        return cls(title, details)

    def errors(self) -> list[dict[str, Any]]:
        """Return each mistake's ``type``, ``msg``, ``loc`` and ``input``."""
        return [{**d, "type": d["type"].type, "msg": d["type"].message()} for d in self._details]


class BaseModel:
    """A frozen record whose annotated names are its fields."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        _check(type(self), {name: getattr(self, name) for name in _fields(type(self))})

    @classmethod
    def model_validate(cls, given: Mapping[str, Any]) -> Self:
        """Return the record with these fields.

        Raises:
            ValidationError: a field is unknown, missing, or of another type.
        """
        return _made(cls, given)

    def model_dump(self, mode: str = "python") -> dict[str, Any]:  # noqa: ARG002 - fields are plain data
        """Return every field with its value."""
        return {name: getattr(self, name) for name in _fields(type(self))}


def Field(default: Any = dataclasses.MISSING, *, default_factory: Any = dataclasses.MISSING, **limits: Any) -> Any:  # noqa: N802 - pydantic's name
    """Return the declaration of a field with a default or limits."""
    return dataclasses.field(default=default, default_factory=default_factory, metadata=limits)


def _as_it_is(*_: str, **__: str) -> Callable[[T], T]:
    return lambda function: function


field_validator = model_validator = _as_it_is


def _made(cls: type[T], given: Mapping[str, Any]) -> T:
    """Return the record of some fields, some of which may have older names.

    Raises:
        ValidationError: one is unknown, missing, of another type, or given by two names.
    """
    known, renamed = _fields(cls), getattr(cls, "renamed", {})
    if twice := [old for old, new in renamed.items() if old in given and new in given]:
        raise _error(cls, {old: f"this is the older name of {renamed[old]}" for old in twice}, given)
    given = {renamed.get(name, name): value for name, value in given.items()}
    messages = {name: "Extra inputs are not permitted" for name in given if name not in known}
    absent = (dataclasses.MISSING, dataclasses.MISSING)
    needed = {name for name, field in known.items() if (field.default, field.default_factory) == absent}
    messages |= dict.fromkeys(sorted(needed - given.keys()), "Field required")
    if messages:
        raise _error(cls, messages, given)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    _check(cls, values)
    return cls(**values)


def _check(cls: Any, values: Mapping[str, Any]) -> None:
    """Raise an error if values have wrong types or exceed limits.

    Raises:
        ValidationError: names each wrong field.
    """
    known, hints = _fields(cls), _hints(cls)
    messages = {}
    for name, value in values.items():
        limits = {key: limit for key, limit in known[name].metadata.items() if key in _LIMITS}
        if not _is(value, hints[name]):
            messages[name] = f"Input should be {' or '.join(map(repr, get_args(hints[name]))) or hints[name].__name__}"
        elif value is not None and not all(_LIMITS[key](value, limit) for key, limit in limits.items()):
            messages[name] = f"Input should be {', '.join(f'{key} {limit}' for key, limit in limits.items())}"
    if messages:
        raise _error(cls, messages, values)


def _is(value: Any, hint: Any) -> bool:
    """Return whether a value has a type; unknown types match any value."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in inner
    if kind in (Union, types.UnionType):
        return any(_is(value, one) for one in inner)
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    known = kind or hint
    return not isinstance(known, type) or isinstance(value, known)


def _error(cls: type[Any], messages: Mapping[str, str], given: Mapping[str, Any]) -> ValidationError:
    details = [
        {
            "type": PydanticCustomError("unfit", "{message}", {"message": message}),
            "loc": (name,),
            "input": given.get(name),
        }
        for name, message in messages.items()
    ]
    return ValidationError(cls.__name__, details)


def _fields(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return get_type_hints(cls)
