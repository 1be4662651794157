"""``doctor``: what it finds on machines that are made up, and that a check that breaks loses no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paretune.cli.main import main
from paretune.distributed import ray_leftovers
from paretune.workflows import doctor, doctor_hardware
from paretune.workflows.doctor import run_layer
from paretune.workflows.doctor_hardware import Finding


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def states(found: Any) -> dict[str, str]:
    return {one.check: one.state for one in found}


def works(*_: str) -> None:
    """In place of a process: the runtime works."""


def test_this_machine_is_usable(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "run_layer", works)
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usable"] is True
    by_name = {one["check"]: one for one in found["checks"]}
    assert by_name["runtime eager"]["state"] == by_name["runtime onnxruntime"]["state"] == "ok"
    assert sys.prefix in by_name["python"]["found"]
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == "usable"
    assert all(f" {one['check']}: " in text for one in found["checks"])


def test_an_essential_runtime_that_fails_is_an_error(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "run_layer", lambda name, _: "it crashed" if name == "onnxruntime" else None)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "error" in said
    assert "runtime onnxruntime: it crashed" in said
    other = states(doctor.runtimes(lambda _: None, lambda name, _: "no" if name == "openvino" else None))
    assert other["runtime openvino"] == "warning"


def test_a_check_that_breaks_loses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise OSError("no such file")

    monkeypatch.setattr(doctor, "memory", broken)
    found = doctor.examine(Path("runs"), try_runtime=works)
    (one,) = [one for one in found if one.check == "memory"]
    assert "no such file" in one.found
    assert "variable" in states(found) or "device lock" in states(found)


@pytest.mark.slow
def test_a_runtime_really_runs_in_a_process_of_its_own() -> None:
    assert run_layer("onnxruntime", "cpu") is None
    assert "unknown runtime" in str(run_layer("onnxruntim", "cpu"))
    began = time.monotonic()
    assert "0.1 s" in str(run_layer("onnxruntime", "cpu", patience=0.1))
    assert time.monotonic() - began < 20


def test_packages_are_held_to_what_is_required() -> None:
    (found,) = doctor.packages(["numpy>=1", "pyyaml", "nncf>=3; extra == 'nncf'", "tomli; python_version < '3'"])
    assert (found.state, found.found) == ("ok", "2 as required")
    (found,) = doctor.packages(["numpy>=999", "no-such-package-at-all"])
    assert found.state == "error"
    assert found.remedy == "pip install 'numpy>=999' 'no-such-package-at-all'"


@pytest.mark.parametrize(("free", "state"), [(0.5, "error"), (5, "warning"), (50, "ok")])
def test_free_space(free: float, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=int(free * 2**30)))
    assert states(doctor.disk(Path("runs/deep"))) == {"disk": state, "temporary files": state}


def test_a_folder_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert states(doctor.disk(Path("runs")))["output folder"] == "error"


def test_available_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (told := tmp_path / "meminfo").write_text("MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\n")
    monkeypatch.setattr(doctor_hardware, "cgroup", lambda: tmp_path)
    (found,) = doctor_hardware.memory(told)
    assert (found.state, found.found) == ("ok", "4.0 of 8.0 GiB available")
    (tmp_path / "memory.max").write_text(f"{3 * 2**30}\n")
    (tmp_path / "memory.current").write_text(f"{2 * 2**30}\n")
    (found,) = doctor_hardware.memory(told)
    assert found.state == "warning"
    assert found.found.startswith("1.0 of 3.0 GiB")


def test_cores_that_a_container_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_hardware, "cgroup", lambda: tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(doctor_hardware, "siblings", lambda cores: {core ^ flip for core in cores for flip in (0, 1)})
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    found = {one.check: one for one in doctor_hardware.cores()}
    assert {name: one.state for name, one in found.items()} == {"cpu": "ok", "cpu quota": "warning", "load": "warning"}
    assert found["cpu"].found.endswith("cores, 2 physical")
    assert "1.5 cores" in found["cpu quota"].found


@pytest.mark.parametrize(("now", "state"), [("performance", "ok"), ("powersave", "warning"), (None, "absent")])
def test_the_governor(now: str | None, state: str, tmp_path: Path) -> None:
    file = tmp_path / "scaling_governor"
    if now:
        file.write_text(f"{now}\n")
    (tmp_path / "intel_pstate").mkdir()
    (tmp_path / "intel_pstate" / "no_turbo").write_text("1\n")
    (found,) = doctor_hardware.governor(file, tmp_path)
    assert found.state == state
    assert now is None or "turbo off" in found.found


def test_what_a_dead_sweep_left_of_its_ray_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (idle := tmp_path / "pt-idle" / "session_1").mkdir(parents=True)
    (tmp_path / "pt-other").mkdir()
    (busy := tmp_path / "pt-busy").mkdir()
    with (busy / "raylet.out").open("wb") as output, subprocess.Popen(["sleep", "600"], stdout=output) as raylet:
        assert states(doctor.ray_leftovers(tmp_path)) == {"ray": "ok"}  # this process has started it, and runs Python
        monkeypatch.setattr(ray_leftovers, "_is_driver", lambda _: False)
        os.utime(idle.parent, (0, 0))
        found = list(doctor.ray_leftovers(tmp_path))
        assert [one.remedy for one in found] == [f"kill -9 {raylet.pid}; rm -r {busy}", f"rm -r {idle.parent}"]
        raylet.kill()


class Healthy(BaseHTTPRequestHandler):
    """Answers every request, and refuses those of /refused."""

    def do_GET(self) -> None:
        self.send_response(401 if self.path.startswith("/refused") else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_configured_server_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        for path, told in (("", "answers"), ("/refused", "code 401")):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{address}{path}")
            (found,) = doctor.mlflow(Path("runs"))
            assert found.state == "ok"
            assert told in found.found
            assert "secret" not in found.found
        server.shutdown()
    (found,) = doctor.mlflow(Path("runs"), patience=1.0)
    assert found.state == "warning"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (found,) = doctor.mlflow(Path("runs"))
    assert (found.state, "mlflow.db" in found.found) == ("ok", True)


def test_secrets_are_not_printed() -> None:
    told = {
        "MLFLOW_TRACKING_URI": "http://me:secret@there",
        "MLFLOW_TRACKING_PASSWORD": "secret",
        "PARETUNE_WEIGHTS": "/weights",
        "HOME": "/me",
    }
    found = [one.found for one in doctor.variables(told)]
    assert found == [
        "MLFLOW_TRACKING_PASSWORD=(hidden)",
        "MLFLOW_TRACKING_URI=http://there",
        "PARETUNE_WEIGHTS=/weights",
    ]


def test_the_text_is_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = doctor.examined_text([Finding("disk", "error", "word " * 20, "do this " * 10), Finding("x", "ok", "fine")])
    assert max(map(len, text.splitlines())) <= 40
    assert text.splitlines()[-1].startswith("NOT usable")
