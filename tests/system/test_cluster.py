"""`paretune submit` against a real Ray head with a token, on its own ports."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from paretune.cli.main import main
from paretune.distributed import ray_jobs as jobs
from paretune.distributed.ray_session import QUIET, python_path
from tests_support import runs_of

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


def free_ports(count):
    """Below those that the kernel gives to whoever names none, and above those of Ray's workers."""
    found = []
    for port in random.sample(range(20_000, 32_000), 1000):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


class Head:
    """A Ray head of our own, ended by its processes' ids."""

    def __init__(self, folder: Path) -> None:
        self.temp = Path(tempfile.mkdtemp(prefix="rh-"))  # short: socket paths are limited
        self.token = folder / "token"
        self.token.write_text("a" * 64)
        self.token.chmod(0o600)
        gcs, dashboard, client, agent, metrics = free_ports(5)
        self.address = f"http://127.0.0.1:{dashboard}"
        self.environment = {
            **os.environ,
            # as in an activated environment: a job's `python` is the one that the head finds first
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # as in a sweep's own Ray
            "HOME": str(folder),
        }
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "2"),
                *("--node-ip-address", "127.0.0.1", "--port", str(gcs), "--include-dashboard", "true"),
                *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)),
                *("--ray-client-server-port", str(client), "--dashboard-agent-listen-port", str(agent)),
                *("--metrics-export-port", str(metrics), "--temp-dir", str(self.temp)),
                *("--object-store-memory", str(200 * 2**20)),
            ],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            probe = subprocess.run(
                [sys.executable, "-m", "paretune", "status", "--address", self.address],
                env=self.environment,
                check=False,
                capture_output=True,
                text=True,
            )
            if probe.returncode == 0:
                return
            assert self.process.poll() is None, "the head ended"
            time.sleep(1)
        raise AssertionError(probe.stderr)

    def stop(self) -> None:
        self.process.kill()  # asked to end, it waits for its children beyond its own limits
        self.process.wait(timeout=20)
        for command in Path("/proc").glob("[0-9]*/cmdline"):  # its children, known by its folder
            with contextlib.suppress(OSError):
                if str(self.temp) in command.read_text():
                    os.kill(int(command.parent.name), signal.SIGKILL)
        shutil.rmtree(self.temp, ignore_errors=True)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    ours = Head(tmp_path_factory.mktemp("head"))
    try:
        ours.wait()
        yield ours
    finally:
        ours.stop()


def submit(place, head, *words, token=True):
    keep = {k: v for k, v in place.environment.items() if not k.startswith("RAY_")}
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(head.token)} if token else {}
    command = [sys.executable, "-m", "paretune", *words, "--address", head.address]
    environment = {**keep, **secret}
    return subprocess.run(
        command, cwd=place.folder, env=environment, check=False, capture_output=True, text=True, timeout=800
    )


def goes_on_though_its_head_forgot_it(place, head, far):
    forget = "from ray.job_submission import *; import sys; c = JobSubmissionClient(sys.argv[1])\n"
    forget += "for job in c.list_jobs():\n if (job.metadata or {}).get('paretune_sweep') == 'tiny':\n"
    forget += "  c.delete_job(job.submission_id)"  # as a head that was started anew forgets them
    subprocess.run([sys.executable, "-c", forget, head.address], env=head.environment, check=True, timeout=60)
    assert "--runs" in submit(far, head, "front", "tiny").stderr
    (forgotten,) = json.loads(submit(far, head, "status", "--runs", str(place.runs), "--json").stdout)["forgotten"]
    assert (forgotten["name"], forgotten["state"], forgotten["done"]) == ("tiny", "finished", 3)
    again = submit(far, head, "resume", "tiny", "--runs", str(place.runs))
    assert again.returncode == 0, again
    assert "front of tiny" in again.stdout


def test_a_submitted_sweep_is_stopped_goes_on_and_ends_where_the_job_says(place, head, place_in, tmp_path_factory):
    done = submit(place, head, "submit", "tiny.yaml", "--set", f"output={place.runs}", "--trials", "3", "--no-wait")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    far = place_in(tmp_path_factory.mktemp("far"))  # a machine that sees nothing of the sweep's folder
    end = time.monotonic() + 300
    while "trial 0" not in (log := submit(far, head, "logs", "tiny")).stdout:
        assert time.monotonic() < end, log
        time.sleep(0.5)
    stopped = submit(far, head, "stop", "tiny", "--json")
    assert json.loads(stopped.stdout)["state"] in ("stopped", "failed"), stopped
    kept = json.loads(stopped.stdout)["folder"]
    assert (kept["state"], kept["done"]) == ("stopped", len(list((place.runs / "tiny").glob("trials/*/record.json"))))
    assert kept["done"] >= 1
    assert "stopped; nothing is lost" in submit(far, head, "logs", "tiny").stdout  # by its driver itself, not killed
    assert not (place.runs / "tiny" / "finished").exists()
    refused = place.run("resume", "tiny")
    assert refused.returncode == 2
    assert "trials run on: a Ray cluster" in refused.stderr
    done = submit(far, head, "resume", "tiny")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "3/3 done" in done.stdout  # its log was followed
    assert "front of tiny" in done.stdout
    front = json.loads(place.run("front", "tiny", "--json").stdout)
    assert front["baseline"]["trial"] == 0
    assert json.loads(submit(far, head, "front", "tiny", "--json").stdout) == front
    picked = submit(far, head, "pick", "tiny", "--out", "chosen", "--json")
    assert picked.returncode == 0, picked
    chosen = json.loads(picked.stdout)
    assert chosen["folder"] == "chosen"
    assert front["best"]["trial"] == chosen["trial"]
    artefact = place.runs / "tiny" / "trials" / f"{chosen['trial']:04d}" / "artefact"
    files = [file.relative_to(artefact) for file in artefact.rglob("*") if file.is_file()]
    assert files
    assert all((far.folder / "chosen" / file).read_bytes() == (artefact / file).read_bytes() for file in files)
    state = json.loads(submit(far, head, "watch", "tiny", "--json").stdout)
    assert state["state"] == "finished"
    compared = json.loads((place.runs / "tiny" / "comparison.json").read_text())
    assert "reason" not in compared, compared
    assert {"0", "1"} <= set(compared["trials"])
    _, parent, children = runs_of(place)
    assert parent.info.status == "FINISHED"
    assert len(children) == 3
    listed = submit(place, head, "status")
    assert "tiny" in listed.stdout
    assert "succeeded" in listed.stdout
    one = submit(place, head, "status", listed.stdout.split()[0])
    assert "front of tiny" in one.stdout
    goes_on_though_its_head_forgot_it(place, head, far)


def test_the_cluster_is_checked_for_a_job_and_nothing_is_left(place, head):
    before = submit(place, head, "status").stdout
    words = ("tiny.yaml", "--set", f"output={place.runs}")
    done = submit(place, head, "cluster", "check", *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {one["check"]: one for one in json.loads(done.stdout)["checks"]}
    assert {"node", "packages", "trials", "target local", "output folder"} <= set(checks)
    assert {one["state"] for one in checks.values()} == {"ok"}
    assert not place.runs.exists()
    done = submit(place, head, "submit", *words, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "target local" in done.stdout
    assert "baseline" in done.stdout  # of the estimate
    assert submit(place, head, "status").stdout == before
    done = submit(place, head, "cluster", "check", *words, "--set", "targets={board: {labels: {board: jetson}}}")
    assert done.returncode == 1
    assert "no node of the cluster has label board=jetson" in done.stdout


def test_what_the_cluster_does_not_have_is_refused_before_it_is_submitted(place, head):
    before = submit(place, head, "status").stdout
    words = ("submit", "tiny.yaml", "--set", f"output={place.runs}", "--set", "resources={cpu: 64, gpu: 1}")
    done = submit(place, head, *words)
    assert done.returncode == 2
    assert "CPU: 64" in done.stderr
    assert "CPU: 2" in done.stderr  # what it has
    assert submit(place, head, "status").stdout == before
    assert not place.runs.exists()


def test_a_sweep_that_fails_on_the_cluster_before_its_first_epoch_can_be_submitted_again(place, head):
    weights = f"weights: 'http://127.0.0.1:9/{'a' * 8}.pth', sha256: {'a' * 64}"
    words = ["submit", "tiny.yaml", "--set", f"output={place.runs}", "--set"]
    for _ in range(2):
        done = submit(place, head, *words, f"detector={{yolo: {{variant: nano, {weights}}}}}")
        assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
        assert "cannot be fetched" in done.stdout
        assert "exists already" not in done.stdout
        assert not (place.runs / "tiny").exists()


@pytest.mark.parametrize(
    ("words", "token", "message"),
    [
        (("submit", "tiny.yaml", "--set", "output=/tmp/never"), False, "asks for a token"),
        (("submit", "tiny.yaml"), True, "would lie in a folder that ends with the job"),
        (("status", "raysubmit_none"), True, "knows no sweep"),
    ],
)
def test_mistakes_are_told_in_one_line(place, head, words, token, message):
    done = submit(place, head, *words, token=token)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def processes_of(head):
    """The head's processes, known by its folder, and their children."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(head.temp) in word for word in process.cmdline()):
                yield process
                yield from process.children(recursive=True)


def test_the_dashboard_is_on_this_machine_alone_and_no_door_opens_without_the_token(head):
    """Other ports of Ray's are on all addresses, whatever it is told: they must refuse too."""
    import psutil

    places = set()
    for process in processes_of(head):
        with contextlib.suppress(psutil.Error):
            places |= {one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN}
    assert len(places) >= 5  # GCS, raylet, dashboard, agents
    dashboard = int(head.address.rpartition(":")[2])
    assert {place.ip for place in places if place.port == dashboard} == {"127.0.0.1"}
    answered = {}
    for port in {place.port for place in places}:
        for path in ("/api/jobs/", "/api/v0/nodes", "/nodes?view=summary", "/api/job_agent/jobs/"):
            with contextlib.suppress(OSError, http.client.HTTPException):
                asked = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                asked.request("GET", path)
                answer = asked.getresponse()
                answered[port, path] = answer.status, answer.read()
    assert answered[dashboard, "/api/jobs/"][0] in (401, 403)
    opened = {door: body for door, (code, body) in answered.items() if code == 200}
    assert [door for door, body in opened.items() if not body.startswith(b"# HELP ")] == []  # figures for Prometheus


def test_nobody_answers(place):
    (port,) = free_ports(1)
    done = place.run("status", "--address", f"http://127.0.0.1:{port}")
    assert done.returncode == 2
    assert "no Ray dashboard answers" in done.stderr


SUBMIT = """
import sys, time
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient(sys.argv[1])
name = client.submit_job(entrypoint=f"{sys.executable} {sys.argv[2]}", runtime_env={"env_vars": %r})
while not client.get_job_status(name).is_terminal():
    time.sleep(0.5)
print(client.get_job_logs(name))
"""
LOOK = """
import json, os
from pathlib import Path
from paretune.distributed import ray_session as session

def look():
    return os.environ.get("RAY_worker_niceness"), os.getpriority(os.PRIO_PROCESS, 0)

print("SEEN", json.dumps([look()[1], session.on_a_node(look, {"CPU": 1}, Path(), "auto")]))
"""


def test_workers_of_a_submitted_job_have_normal_priority(head, tmp_path):
    (tmp_path / "look.py").write_text(LOOK)
    carried = {"PYTHONPATH": python_path(), **QUIET}  # as a sweep is submitted
    command = [sys.executable, "-c", SUBMIT % carried, head.address, str(tmp_path / "look.py")]
    done = subprocess.run(command, env=head.environment, capture_output=True, text=True, check=True, timeout=300)
    assert "SEEN " in done.stdout, done.stdout
    ours, (told, niceness) = json.loads(done.stdout.partition("SEEN ")[2].splitlines()[0])
    assert told == "0"
    assert niceness == ours


CARRIED = """
import sys, time
from paretune.distributed.job_environment import Carried, runtime_environment, staged
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient(sys.argv[1])
carried = Carried(variables=("OWN_TOKEN",))
with staged(carried=carried) as folder:
    (folder / "look.py").write_text(open(sys.argv[2]).read())
    name = client.submit_job(entrypoint="python look.py", runtime_env=runtime_environment(folder, carried))
while not client.get_job_status(name).is_terminal():
    time.sleep(0.3)
print(client.get_job_logs(name), repr(client.list_jobs()))
"""
LOOK_CARRIED = """
import hashlib, json, os
from pathlib import Path
from paretune.compression import STEPS
from paretune.distributed import forwarded_env
from paretune.distributed import ray_session as session

def look():
    seen = hashlib.sha256(os.environ.get("OWN_TOKEN", "").encode()).hexdigest()
    return seen, STEPS.load("mine").name, oct(forwarded_env.file_here().stat().st_mode)

forwarded_env.load()
print("SEEN", json.dumps([look(), session.on_a_node(look, {"CPU": 1}, Path(), "auto")]))
"""


def test_a_plug_in_and_a_secret_reach_the_workers_and_the_secret_is_shown_nowhere(head, tmp_path):
    (tmp_path / "site" / "mypackage").mkdir(parents=True)
    text = "from paretune.compression.sparsify import Sparsify\n\n\nclass Mine(Sparsify):\n    name = 'mine'\n"
    (tmp_path / "site" / "mypackage" / "__init__.py").write_text(text)
    facts = tmp_path / "site" / "mypackage-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[paretune.step]\nmine = mypackage:Mine\n")
    (tmp_path / "look.py").write_text(LOOK_CARRIED)
    secret = secrets.token_hex(16)
    path = os.pathsep.join([python_path(), str(tmp_path / "site")])
    environment = {**head.environment, "PYTHONPATH": path, "OWN_TOKEN": secret}
    command = [sys.executable, "-c", CARRIED, head.address, str(tmp_path / "look.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert "SEEN " in done.stdout, done.stdout + done.stderr
    driver, worker = json.loads(done.stdout.partition("SEEN ")[2].splitlines()[0])
    assert driver == worker == [hashlib.sha256(secret.encode()).hexdigest(), "mine", "0o100600"]
    assert "JobDetails" in done.stdout
    assert secret not in done.stdout + done.stderr  # what Ray tells of its jobs
    logs = [file for file in head.temp.glob("session_latest/logs/**/*") if file.is_file()]
    assert any(b"SEEN" in file.read_bytes() for file in logs)
    assert [file for file in logs if secret.encode() in file.read_bytes()] == []


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, "no such page"), (200, "<html>MLflow</html>"), (200, '{"version": "0.1"}')],
    ids=["404", "page", "another-version"],
)
def test_another_server_is_told_in_one_line(status, body, capsys):
    class Another(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            """Quietly."""

    with HTTPServer(("127.0.0.1", 0), Another) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert main(["status", "--address", f"http://127.0.0.1:{server.server_port}"]) == 2
        server.shutdown()
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not answer as a Ray dashboard does" in line


def test_a_head_that_is_lost_is_told_with_how_to_go_on(capsys):
    class Lost:
        async def tail_job_logs(self, _submission):
            yield "trial 3\n"
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    assert jobs.follow(Lost(), "raysubmit_1", "http://head:8265") == 1
    told = capsys.readouterr()
    assert told.out == "trial 3\n"
    assert "paretune status raysubmit_1 --address http://head:8265" in told.err
