"""README's commands as a stranger types them, in a fresh clone and a terminal: `make bench NAME=stranger`.

The commands are read out of README.md. They run in a terminal of 80 columns that util-linux's `script` makes and
records, in this order: set-up and demo, checks, a sweep on a VOC folder, its front, pick, export and predict, and the
lines of Python. The folder is that of PARETUNE_DATASETS, else the built-in pictures in VOC's format. `--environment`
takes an environment that is set up already; `--quick` trains the sweep for a minute, of four trials.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from figures import BENCH, ROOT, Figures

sys.path.insert(0, str(ROOT / "tests"))
from tests_support_documented import blocks, lines, notebook_cells

COLUMNS = 80
QUICK = "--set training.minutes=1 --trials 4"
NOT_TYPED = ("make test", "paretune ui")
"""Lines that are not run: the tests, and a server that never ends."""
CELLS = 15
"""Lines of code that the notebook may have."""
WIDE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\x07]*\x07|\r")


def typed() -> Iterator[str]:
    """Return the lines of README's shell blocks, and its lines of Python as a file that is run."""
    for block in blocks("README.md"):
        if block.language == "python":
            yield f".venv/bin/python - <<'END'\n{block.text}END"
        elif block.language == "bash":
            yield from (line for line in lines(block) if not line.startswith(NOT_TYPED) and "paretune ui" not in line)


class Stranger:
    """A clone of the repository in which lines are typed.

    Args:
        folder: to work in.
        environment: an environment that is set up; None if `make` sets it up.
        quick: whether the sweep is short.
    """

    def __init__(self, folder: Path, environment: Path | None, *, quick: bool) -> None:
        self.clone, self.transcript, self._quick = folder / "paretune", folder / "transcript.txt", quick
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(self.clone)], check=True)
        if environment is not None:
            (self.clone / ".venv").symlink_to(environment)
        self.data = folder / "data"
        self.environment = {**os.environ, "PYTHONPATH": str(self.clone / "platform"), "TERM": "xterm-256color"}

    def type(self, line: str) -> tuple[int, float]:
        """Run a line in a terminal, keep what it shows, and return its exit code and its seconds."""
        line = line.replace("/data/BCCD", str(self.data))
        if (self.clone / ".venv").is_symlink():  # which `make` would install into
            line = re.sub("^make demo", ".venv/bin/paretune sweep jobs/quickstart.yaml", line)
        if self._quick and "sweep jobs/voc.yaml" in line:
            line += f" {QUICK}"
        setting = f"stty cols {COLUMNS} rows 40; "
        start = time.monotonic()
        with tempfile.NamedTemporaryFile() as record:
            words = ["script", "-q", "-e", "-c", f"bash -c {shlex.quote(setting + line)}", record.name]
            done = subprocess.run(
                words,
                cwd=self.clone,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=False,
            )
            shown = Path(record.name).read_text(encoding="utf-8", errors="replace")
        text = WIDE.sub("", shown.partition("\n")[2].rpartition("\nScript done")[0])
        seconds = time.monotonic() - start
        with self.transcript.open("a", encoding="utf-8") as file:
            file.write(f"$ {line}\n{text}\n[{done.returncode}, {seconds:.0f} s]\n\n")
        print(f"{done.returncode:3} {seconds:6.1f} s  {line.splitlines()[0]}", flush=True)
        return done.returncode, seconds


def lay_data(stranger: Stranger) -> None:
    """Lay a VOC folder and a photograph, which README's reader has."""
    photographs = Path(os.environ.get("PARETUNE_DATASETS", ""), "bccd", "BCCD")
    if photographs.is_dir():
        shutil.copytree(photographs, stranger.data)
    else:
        stranger.type(f".venv/bin/paretune data convert jobs/quickstart.yaml {stranger.data} --to voc")
    picture = min((stranger.data / "JPEGImages").iterdir())
    shutil.copy(picture, stranger.clone / "photo.jpg")


def main() -> int:
    """Type every line; 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=BENCH / "stranger", help="is emptied first")
    parser.add_argument("--environment", type=Path, help="a folder that `make setup` made elsewhere")
    parser.add_argument("--quick", action="store_true", help="a minute of training, four trials")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    stranger, figures = Stranger(given.folder.resolve(), given.environment, quick=given.quick), Figures("stranger")
    failed, count, seconds = list[str](), 0, 0.0
    for line in typed():
        if not stranger.data.exists() and not line.startswith("make "):
            lay_data(stranger)
        code, took = stranger.type(line)
        count, seconds = count + 1, seconds + took
        failed += [] if code == 0 else [line]
    cells = [row for cell in notebook_cells("jobs/quickstart.ipynb") for row in cell.splitlines() if row.strip()]
    figures.add("README's lines typed", count, at_least=8)
    figures.add("lines that failed", len(failed), at_most=0)
    figures.add("seconds from the clone to a bundle that predicts", seconds, "s")
    figures.add("lines of code in the notebook", len(cells), at_most=CELLS)
    print(f"transcript: {stranger.transcript}")
    for line in failed:
        print(f"failed: {line}")
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
