"""Start of a command: encodings, terminals, missing packages."""

from __future__ import annotations

import io
import locale
import os
import re
import sys
from collections.abc import Callable
from functools import partial

from paretune.core.errors import needed
from paretune.core.secret_texts import without_secrets

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but the tab and the end of a line, and those that reverse the order of a text."""


def in_utf8() -> None:
    """Restart this program in Python's UTF-8 mode if the locale has another encoding.

    Names of files and classes in any script can then be read and written, as in Python 3.15 (PEP 686). Output keeps
    the encoding of the terminal.
    """
    if sys.flags.utf8_mode or os.environ.get("PYTHONUTF8") == "1" or locale.getencoding().lower() in ("utf-8", "utf8"):
        return
    printed = os.environ.get("PYTHONIOENCODING") or sys.stdout.encoding
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": printed}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - this very program


def any_output() -> None:
    """Let stdout and stderr take any text, such as names of files and classes from anywhere.

    Characters that the encoding lacks are question marks, control characters, which a terminal would obey, are
    escaped, and stderr gets no secrets.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
            if "write" not in vars(stream):
                stream.write = partial(_write, stream.write, hide=stream is sys.stderr)  # type: ignore[method-assign]


def escaped(text: str) -> str:
    """Return a text with escapes in place of the control characters that a terminal would obey."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def _write(write: Callable[[str], int], text: str, *, hide: bool) -> int:
    """Write a text with escapes in place of control characters, and return its length."""
    write(escaped(without_secrets(text) if hide else text))
    return len(text)


def missing_package(error: ModuleNotFoundError) -> str:
    """Return a message for a package that is not installed.

    Raises:
        ModuleNotFoundError: the module is one of this package.
    """
    module = (error.name or "").partition(".")[0]
    if module in ("", "paretune"):
        raise error
    return f"this needs {needed([module])}; paretune-deploy is enough for `predict`, not for this"
