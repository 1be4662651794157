"""Reading YAML with lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.config.job import Job
from paretune.core.errors import UserErrors
from paretune.core.yaml_document import parse_yaml, read_value, read_yaml, validate


@pytest.fixture
def read(tmp_path):
    def reader(text):
        path = tmp_path / "a.yaml"
        path.write_text(text)
        return read_yaml(path, "a.yaml")

    return reader


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("4e3", 4000.0),
        (".5", 0.5),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("012", "012"),
        ("1:30", "1:30"),
        ("null", None),
        ("~", None),
        ("", None),
        ("192x144", "192x144"),
        ("-3", -3),
        ("2026-11-23", "2026-11-23"),
        ("'7'", "7"),
    ],
)
def test_scalars_follow_yaml_1_2(read, text, value):
    found = read(f"a: {text}").data["a"]
    assert found == value
    assert type(found) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_python_writes_is_read_as_that_float(number):
    assert read_value(repr(number), "x") == number


def test_lines_of_nested_places(read):
    document = read("a: 1\nb:\n  - c: 2\n  - d:\n      e: 3\n")
    assert document.line(("a",)) == 1
    assert document.line(("b", 1, "d", "e")) == 5
    assert document.line(("b", 1, "d", "missing", "deeper")) == 4


def test_a_file_that_a_program_wrote_tells_no_lines():
    for name, place in {"job.json": "job.json: ", "job.yaml": "job.yaml:1: "}.items():
        document = parse_yaml('{"dataset": {"shapes": {}}, "detector": 3}', name)
        with pytest.raises(UserErrors) as refused:
            validate(Job, document)
        assert all(line.startswith(place) for line in str(refused.value).splitlines())
