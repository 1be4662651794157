"""The job that runs one verb on a cluster, and prints its answer as one line that the job's log carries to the client.

``python -m paretune.distributed.verb_answer VERB …``
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

MARK = "paretune-answer "
"""Beginning of the line."""


@dataclass(frozen=True)
class VerbAnswer:
    """What a verb printed, and how it ended."""

    code: int
    out: str
    err: str

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


def main(words: Sequence[str]) -> int:
    """Run a verb in a process of its own, and print its answer."""
    done = subprocess.run([sys.executable, "-m", "paretune", *words], capture_output=True, text=True, check=False)
    print(VerbAnswer(done.returncode, done.stdout, done.stderr).line(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
