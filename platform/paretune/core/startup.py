"""Start of a command: encodings, terminals, missing packages."""

from __future__ import annotations

import io
import locale
import os
import sys

from paretune.core.errors import needed


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
    """Print a question mark for characters that the encoding of stdout or stderr lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def missing_package(error: ModuleNotFoundError) -> str:
    """Return a message for a package that is not installed.

    Raises:
        ModuleNotFoundError: the module is one of this package.
    """
    module = (error.name or "").partition(".")[0]
    if module in ("", "paretune"):
        raise error
    return f"this needs {needed([module])}; paretune-deploy is enough for `predict`, not for this"
