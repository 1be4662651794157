"""What reading plug-ins from a table imports: `paretune check` does it in about a second."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

_CODE = """\
import sys
from {module} import {table} as table
heavy, seen = set({heavy!r}), set()
for name in {names!r} or table.names:
    made = table.load(name)()
    {touch}
    heavy.update(getattr(made, "libraries", ()))
    new = heavy.intersection(sys.modules) - seen
    seen |= new
    print(*(f"{{name}} imports {{library}}\\n" for library in sorted(new)), end="")
"""


def run_python(code: str, given: bytes = b"") -> bytes:
    """Run Python code in a process of its own that finds the modules of this one, and return what it printed.

    Args:
        code: Python source.
        given: standard input of the process.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], input=given, stdout=-1, check=True, env=environment)
    return done.stdout


def heavy_imports(module: str, table: str, heavy: Sequence[str], touch: str = "", names: Sequence[str] = ()) -> str:
    """Return which of these libraries the rows of a table import when they are made with default fields.

    Args:
        module: that holds the table.
        table: the table's name in it.
        heavy: libraries; those that a row itself names are looked for too.
        touch: a statement that is run for each row, as ``made``.
        names: rows to look at; all where there is none.

    Returns:
        A line for each library that a row is the first to import; one process looks at all rows.
    """
    code = _CODE.format(module=module, table=table, heavy=list(heavy), touch=touch, names=list(names))
    return run_python(code).decode()
