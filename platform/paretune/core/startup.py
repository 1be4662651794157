"""How a command starts: in any encoding, on any terminal, and where a package is missing."""

from __future__ import annotations

import io
import locale
import os
import sys

from paretune.core.errors import needed


def in_utf8() -> None:
    """Start this program anew in Python's UTF-8 mode where it would take files and names for another encoding.

    Names of files and classes of any script can then be read and written, as Python 3.15 does everywhere (PEP 686).
    What is printed stays in the encoding that the terminal was said to have.
    """
    if sys.flags.utf8_mode or os.environ.get("PYTHONUTF8") == "1" or locale.getencoding().lower() in ("utf-8", "utf8"):
        return
    printed = os.environ.get("PYTHONIOENCODING") or sys.stdout.encoding
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": printed}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - this very program


def any_output() -> None:
    """Let stdout and stderr take any text: a character that their encoding lacks is printed as a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def missing_package(error: ModuleNotFoundError) -> str:
    """Return what to tell who has asked for something that needs a package which is not installed.

    Raises:
        ModuleNotFoundError: the module is one of this package.
    """
    module = (error.name or "").partition(".")[0]
    if module in ("", "paretune"):
        raise error
    return f"this needs {needed([module])}; paretune-deploy is enough for `predict`, not for this"
