"""What a killed sweep leaves of its Ray is ended by the next one; other processes are not touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paretune.distributed import ray_session
from paretune.distributed.ray_leftovers import SESSION_VARIABLE, end_session, session_processes

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


def started(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, SESSION_VARIABLE: str(folder)}
    process = subprocess.Popen([sys.executable, "-S", "-c", DEAF], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def test_processes_of_a_session_end_and_those_of_another_do_not(tmp_path: Path) -> None:
    mine, other = tmp_path / "pt-mine", tmp_path / "pt-mine2"
    mine.mkdir()
    (mine / "raylet.log").write_text("a line")
    with started(mine) as left, started(other) as stays:
        assert session_processes(mine) == [left.pid]
        end_session(mine)
        assert left.wait(10) == -9
        assert stays.poll() is None
        assert not mine.exists()
        stays.kill()


def test_the_next_sweep_ends_what_a_killed_one_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (folder := tmp_path / "pt-left").mkdir()
    (mark := tmp_path / ray_session.SESSION_MARK).write_text(f"{os.getpid()} {folder}")
    with started(folder) as left:
        ray_session._remove_left_session(tmp_path)
        assert left.poll() is None  # the sweep runs
        with subprocess.Popen(["true"]) as gone:
            gone.wait()
        mark.write_text(f"{gone.pid} {folder}")
        ray_session._remove_left_session(tmp_path)
        assert left.wait(10) == -9
        assert not folder.exists()
