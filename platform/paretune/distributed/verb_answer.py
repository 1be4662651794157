"""The job that runs one verb on a cluster, and prints its answer in lines that the job's log carries to the client.

``python -m paretune.distributed.verb_answer [--fetch] VERB …``
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from paretune.core.errors import UserError
from paretune.data.download.extract import unpack

MARK = "paretune-answer "
"""Beginning of the line."""
FOLDER = "paretune-folder "
"""Beginning of the line with the hash and the content of the folder that the verb wrote."""
FETCH = "--fetch"
MADE = "paretune-fetched-folder"
"""Name of that folder in what the verb prints."""


@dataclass(frozen=True)
class VerbAnswer:
    """What a verb printed, and how it ended."""

    code: int
    out: str
    err: str
    wrote: bool = False
    """Whether it wrote a folder, whose line stands in the log too."""

    def line(self) -> str:
        """Return the answer as a line of the log."""
        packed = zlib.compress(json.dumps(asdict(self)).encode(), 9)
        return MARK + base64.b64encode(packed).decode()


def answer_in(log: str) -> VerbAnswer | None:
    """Return the answer in a job's log; None if there is none."""
    line = next((line for line in reversed(log.splitlines()) if line.startswith(MARK)), None)
    if line is None:
        return None
    return VerbAnswer(**json.loads(zlib.decompress(base64.b64decode(line.removeprefix(MARK)))))


MOST_BYTES, MOST_FILES = 8 * 2**30, 1000
"""Largest bundle that is unpacked."""


def folder_line(folder: Path) -> str:
    """Return a folder as a line of the log."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(folder))
    data = content.getvalue()
    return f"{FOLDER}{hashlib.sha256(data).hexdigest()} {base64.b64encode(data).decode()}"


def unpack_folder(log: str, folder: Path) -> None:
    """Write the contents of the folder in a job's log into another one.

    Raises:
        UserError: there is none, or it did not arrive as it was sent.
    """
    line = next((line for line in reversed(log.splitlines()) if line.startswith(FOLDER)), None)
    if line is None:
        raise UserError("the bundle did not arrive: ask for it again")
    sealed, _, text = line.removeprefix(FOLDER).partition(" ")
    data = base64.b64decode(text)
    if hashlib.sha256(data).hexdigest() != sealed:
        raise UserError("the bundle did not arrive as it was sent: ask for it again")
    with tempfile.TemporaryDirectory(prefix="paretune-bundle-") as place:
        archive = Path(place) / "bundle.zip"
        archive.write_bytes(data)
        unpack(archive, folder, MOST_BYTES, MOST_FILES)


def main(words: Sequence[str]) -> int:
    """Run a verb in a process of its own, and print its answer; with ``--fetch`` also the folder that it writes."""
    if words[0] != FETCH:
        print(_answer(words).line(), flush=True)
        return 0
    with tempfile.TemporaryDirectory() as place:
        answer = _answer([*words[1:], "--out", MADE], place)
        if (made := Path(place, MADE)).is_dir():
            print(folder_line(made))
            answer = replace(answer, wrote=True)
        print(answer.line(), flush=True)
    return 0


def _answer(words: Sequence[str], place: str | None = None) -> VerbAnswer:
    """Run a verb in a folder, by default in this one."""
    path = os.pathsep.join(str(Path(part).resolve()) for part in sys.path if part)  # ours may be relative
    command = [sys.executable, "-m", "paretune", *words]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place, env=environment)
    return VerbAnswer(done.returncode, done.stdout, done.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
