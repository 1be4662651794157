"""What a killed sweep leaves of its Ray is ended by the next one; other processes are not touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paretune.distributed import ray_session
from paretune.distributed.ray_leftovers import end_session, session_processes

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


def started(folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that prints into a file of the folder, as all of Ray's do."""
    folder.mkdir()
    with (folder / "raylet.out").open("wb") as output:
        process = subprocess.Popen([sys.executable, "-S", "-c", DEAF], stdout=output)
    while not (folder / "raylet.out").read_bytes():
        time.sleep(0.01)
    return process


def test_processes_of_a_session_end_and_those_of_another_do_not(tmp_path: Path) -> None:
    mine, other = tmp_path / "pt-mine", tmp_path / "pt-mine2"
    with started(mine) as left, started(other) as stays:
        with (mine / "raylet.out").open() as read, subprocess.Popen(["sleep", "600"], stdin=read) as reader:
            assert session_processes(mine) == [left.pid]  # who reads a log is none of them
            reader.kill()
        end_session(mine)
        assert left.wait(10) == -9
        assert stays.poll() is None
        assert not mine.exists()
        stays.kill()


def test_the_next_sweep_ends_what_a_killed_one_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = tmp_path / "pt-left"
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


def test_an_agent_that_prints_elsewhere_is_known_by_its_log(tmp_path: Path) -> None:
    folder = tmp_path / "pt-mine"
    folder.mkdir()
    agent = ["bash", "-c", f"exec -a ray::Agent sleep 600 9>{folder / 'agent.log'}"]
    with subprocess.Popen(agent) as left, subprocess.Popen(["sleep", "600"]) as other:
        while not session_processes(folder):
            time.sleep(0.01)
        assert session_processes(folder) == [left.pid]
        end_session(folder)
        assert left.wait(10) == -9
        assert other.poll() is None
        other.kill()
