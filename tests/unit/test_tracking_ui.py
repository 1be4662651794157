"""``paretune ui``: serves what is there, to this machine only, and takes its processes with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from paretune.core.errors import UserError
from paretune.tracking.sweep_tracker import MlflowTracker
from paretune.tracking.ui_server import open_ui
from tests_support import free_port
from tests_support_records import fake_records, front_of, judge, write_sweep


def test_a_taken_port_is_refused(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="--port 70000: ports are 1 to 65535"):
            open_ui(tmp_path, 70000)
        with pytest.raises(UserError, match=r"port \d+ is taken"):
            open_ui(tmp_path, other.getsockname()[1])


def group_of(parent):
    """Processes whose group is one of a process's children."""
    rows = subprocess.run(["ps", "-eo", "pid,ppid,pgid,stat"], capture_output=True, text=True, check=True).stdout
    table = [line.split() for line in rows.splitlines()[1:]]
    leaders = {pid for pid, ppid, *_ in table if int(ppid) == parent}
    return {int(pid) for pid, _, pgid, state in table if pgid in leaders and not state.startswith("Z")}


def alive(pids):
    rows = subprocess.run(["ps", "-eo", "pid,stat"], capture_output=True, text=True, check=True).stdout
    return pids & {int(pid) for pid, state in map(str.split, rows.splitlines()[1:]) if not state.startswith("Z")}


def get(address, host=None):
    request = urllib.request.Request(address, headers={"Host": host} if host else {})  # noqa: S310 - ours
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - ours
        return answer.read().decode()


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)
    return condition()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A log with one sweep; making the database takes some seconds."""
    folder = tmp_path_factory.mktemp("log") / "runs"
    records = fake_records()[:3]
    write_sweep(folder / "demo", records)
    page = folder / "demo" / "front.html"
    page.write_text("<h1>the front</h1>")
    tracker = MlflowTracker(folder, "demo", None, "paretune")
    tracker.start({}, 1_790_000_000.0)
    tracker.sync(records, folder / "demo", front_of(records), judge(), [page])
    return folder


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_ui_shows_the_newest_front_and_leaves_nothing_behind(runs, tmp_path, how):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    port = free_port()
    code = f"from paretune.tracking import ui_server as ui; ui.open_ui(ui.Path({str(runs)!r}), {port})"
    ui = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=here,
        env={**os.environ, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    group = set()
    try:
        assert ui.stdout.readline().startswith("starting MLflow on ")
        page = ui.stdout.readline().strip()
        assert page == f"experiment: http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning"
        named, _, link = ui.stdout.readline().strip().partition(": ")
        assert named == "front of demo"
        group = group_of(ui.pid)
        assert len(group) >= 2
        assert link.startswith(f"http://127.0.0.1:{port}/#/experiments/1/runs/")
        run_id = link.split("/runs/")[1].split("/")[0]
        found = get(f"http://127.0.0.1:{port}/get-artifact?path=front/front.html&run_uuid={run_id}")
        assert found == "<h1>the front</h1>"
        assert get(f"http://127.0.0.1:{port}/version", f"localhost:{port}").startswith("3.")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/experiments/get?experiment_id=1", "evil.example")
        ui.send_signal(how)
        assert ui.wait(30) == 0
        assert ui.stdout.read() == "Ctrl-C ends it\n"
        assert wait_for(lambda: not alive(group), 60)
    finally:
        if ui.poll() is None:
            ui.kill()
        for pid in alive(group):
            os.kill(pid, signal.SIGKILL)
    written = [path for folder in (home, here) for path in folder.rglob("*") if path.is_file()]
    assert written == []
    assert sorted(path.name for path in runs.iterdir()) == ["demo", "mlartifacts", "mlflow-server.log", "mlflow.db"]
