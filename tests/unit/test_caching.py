"""What runtimes keep on a machine: what was not used longest goes, but nothing that a living process uses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from paretune.system import machine_cache as caching
from paretune.system.machine_cache import hold, kept_in, make_room, private_folder, scratch
from tests_support import ROOT

HOLDS = "import fcntl, os, sys; h = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(h, fcntl.LOCK_SH)"
"""A process that uses a program, written without our code."""
DROPS = """
import sys
from pathlib import Path
from paretune.system import machine_cache as caching
caching.LIMIT = 0
print("ready", flush=True)
while True:
    caching.make_room(Path(sys.argv[1]))
"""
DIES = "import sys; from paretune.system.machine_cache import scratch; made = scratch()"
WAITS = '; print(made.name if "made" in vars() else "", flush=True); sys.stdin.read()'
Other = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def other() -> Iterator[Other]:
    """Start another process, and wait for its first line."""
    running: list[subprocess.Popen[str]] = []

    def start(code: str, *words: object, temporary: Path | None = None) -> tuple[subprocess.Popen[str], str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
        environment |= {"TMPDIR": str(temporary)} if temporary else {}
        command = [sys.executable, "-c", code, *map(str, words)]
        made = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running.append(made)
        assert made.stdout is not None
        return made, made.stdout.readline().strip()

    yield start
    for one in running:
        one.kill()
        one.communicate()


def program(folder: Path, name: str, age: float, size: int = 100) -> Path:
    made = folder / name
    made.mkdir(parents=True)
    (made / "library.so").write_bytes(bytes(size))
    os.utime(made, (time.time() - age,) * 2)
    return made


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_was_not_used_longest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "LIMIT", 300)
    old, *_ = (program(tmp_path, name, age) for name, age in (("old", 50), ("older", 60), ("new", 10)))
    make_room(tmp_path)
    assert names(tmp_path) == {"old", "older", "new"}  # just enough room
    assert hold(old)
    assert time.time() - old.stat().st_mtime < 5
    (tmp_path / "an.engine").write_bytes(bytes(150))
    make_room(tmp_path)
    assert names(tmp_path) == {"old", "an.engine"}
    monkeypatch.setattr(caching, "LIMIT", 0)
    make_room(tmp_path)
    assert names(tmp_path) == {"old"}  # this process lives


def test_a_small_file_system_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, age in (("old", 50), ("new", 10)):
        program(tmp_path, name, age)
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: Usage)
    make_room(tmp_path)
    assert names(tmp_path) == {"new"}


class Usage:
    total = 1500


def test_what_another_process_uses_stays_until_it_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Other
) -> None:
    monkeypatch.setattr(caching, "LIMIT", 0)
    used = program(tmp_path, "used", 50)
    program(tmp_path, "unused", 10)
    process, _ = other(HOLDS + WAITS, used)
    make_room(tmp_path)
    assert names(tmp_path) == {"used"}
    process.send_signal(signal.SIGKILL)
    process.wait()
    make_room(tmp_path)
    assert names(tmp_path) == set()
    assert not hold(used)


def test_what_one_holds_is_whole_while_another_drops_all_it_can(tmp_path: Path, other: Other) -> None:
    dropping, _ = other(DROPS, tmp_path)
    for number in range(200):
        folder = tmp_path / str(number)
        while not hold(folder):
            with_all = tmp_path / f"{number}.{os.getpid()}.part"  # not the other's: this process lives
            with_all.mkdir(exist_ok=True)
            (with_all / "library.so").write_bytes(b"whole")
            with suppress(OSError):  # the other holds the old one and has not yet moved it out of the way
                with_all.rename(folder)
        assert (folder / "library.so").read_bytes() == b"whole"
    assert all((tmp_path / str(number) / "library.so").is_file() for number in range(200))
    assert dropping.poll() is None


def test_drafts_of_dead_processes_go(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        program(tmp_path, f".abc.{pid}.part", 0)
    make_room(tmp_path)
    assert names(tmp_path) == {f".abc.{os.getpid()}.part"}


def test_what_will_not_be_wanted_again_is_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.tempfile, "gettempdir", lambda: str(tmp_path / "usual"))
    (tmp_path / "usual").mkdir()
    (tmp_path / "trial").mkdir()
    with kept_in(tmp_path / "trial"):
        assert private_folder("compiled").parent == tmp_path / "trial"
    assert private_folder("compiled").parent == tmp_path / "usual"


def test_what_a_killed_process_left_behind_is_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Other
) -> None:
    monkeypatch.setattr(caching.tempfile, "tempdir", str(tmp_path))
    killed, left = other(DIES + WAITS, temporary=tmp_path)
    living, kept = other(DIES + WAITS, temporary=tmp_path)
    (Path(left) / "profile.json").write_text("{}")
    killed.kill()
    killed.wait()
    target = tmp_path / "precious"
    (target / "inner").mkdir(parents=True)
    link = tmp_path / f"paretune-{killed.pid}-link"
    link.symlink_to(target)
    for foreign in ("paretune-abc", f"other-{killed.pid}-x", "paretune-compiled-0"):
        (tmp_path / foreign).mkdir()
    with scratch() as mine:
        assert Path(mine).is_dir()
        assert not Path(left).exists()
        assert Path(kept).is_dir()
        assert (target / "inner").is_dir()
        assert {"paretune-abc", f"other-{killed.pid}-x", "paretune-compiled-0"} < names(tmp_path)
    assert not Path(mine).exists()
    assert living.poll() is None
