"""Messages that a user may meet, each provoked in an empty folder: the text that is kept in tests/golden/messages.txt.

A case is registered under a name by one of the other modules of this folder. What it raises, or what a command prints
on standard error, is its message. ``python tests/tools/write_messages.py`` (``make messages``) writes the file anew.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from tests_support import ROOT

FILE = ROOT / "tests" / "golden" / "messages.txt"
CASES: dict[str, Callable[[], Any]] = {}
"""Name → what provokes the message."""


def case(name: str, provoke: Callable[..., Any], *words: Any, **fields: Any) -> None:
    """Register what provokes a message: it raises it, or returns it."""
    assert name not in CASES, f"two messages are called {name!r}"
    CASES[name] = partial(provoke, *words, **fields)


def cases(kind: str, provoke: Callable[..., Any], rows: Mapping[str, Iterable[Any]]) -> None:
    """Register messages of one kind: name → the arguments that provoke it."""
    for name, words in rows.items():
        case(f"{kind}: {name}", provoke, *words)


def write(**files: str) -> None:
    """Write files: ``job_yaml="…"`` makes job.yaml."""
    for name, text in files.items():
        Path(name.replace("_", ".")).write_text(text)


def there() -> dict[Path, int]:
    """Return all that lies in the folder but generated datasets, each file with the time of its last change."""
    datasets = Path("runs/datasets")
    paths = (path for path in Path().rglob("*") if path not in datasets.parents and not path.is_relative_to(datasets))
    return {path: path.stat().st_mtime_ns if path.is_file() else 0 for path in paths}


def refused(*words: Any) -> str:
    """Return what the command line says of a mistake: exit code 2, no other output, no traceback, no file changed."""
    from paretune.cli.main import main

    before, out, error = there(), StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        code = main([str(word) for word in words])
    assert (code, out.getvalue()) == (2, ""), (code, out.getvalue(), error.getvalue())
    assert there() == before
    assert "Traceback" not in error.getvalue()
    return error.getvalue()


def line_of(error: Mapping[str, Any]) -> str:
    """Return one mistake that pydantic found as `place: message`."""
    return ": ".join([*filter(None, [".".join(map(str, error["loc"]))]), error["msg"].removeprefix("Value error, ")])


def message_of(name: str) -> str:
    """Return the kind of error and its text; places on this machine have other names in it."""
    with TemporaryDirectory() as folder, chdir(folder):
        try:
            text, kind = CASES[name](), "exit code 2"
        except AssertionError:
            raise
        except ValidationError as error:
            text, kind = "\n".join(map(line_of, error.errors())), "ValidationError"
        except Exception as error:  # noqa: BLE001 - whichever it is: its kind is kept
            text, kind = str(error), type(error).__name__
        assert isinstance(text, str), f"{name}: nothing is refused"
        assert text.strip(), f"{name}: the message is empty"
        for place, other in ((str(Path(folder).resolve()), "HERE"), (folder, "HERE"), (str(ROOT), "REPOSITORY")):
            text = text.replace(place, other)
        text = re.sub(r"known: [^;()\n]+", "known: …", text)  # a new plug-in or field changes no message
    return f"{kind}\n{text.strip()}"


def load() -> None:
    """Register all messages."""
    for module in ("configuration", "commands", "datasets", "splits", "networks"):
        importlib.import_module(f"messages.{module}")


def kept() -> dict[str, str]:
    """Return the messages that are kept in the file."""
    parts = re.split(r"^## ", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {name: text.strip() for name, _, text in (part.partition("\n") for part in parts)}


def whole() -> str:
    """Return the text of the file."""
    head = "Written by `make messages` from tests/messages; HERE is the folder of a command.\n"
    return "\n".join([head, *(f"## {name}\n{message_of(name)}\n" for name in sorted(CASES))])
