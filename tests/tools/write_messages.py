"""Writes tests/golden/messages.txt, the texts of messages that users may meet: ``make messages``."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "platform")]


def main() -> None:
    """Provoke every message and write the file."""
    from messages import provoke

    provoke.load()
    with TemporaryDirectory() as folder, patch("paretune.system.device_lock.lock_folder", lambda: Path(folder)):
        text = provoke.whole()  # with locks of its own: a sweep on the machine has no part in the messages
    provoke.FILE.write_text(text, encoding="utf-8")
    print(f"{len(provoke.CASES)} messages written")


if __name__ == "__main__":
    main()
