"""The private Ray session: its workers, its files, its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from tests_support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]

ON_A_NODE = """
import contextlib, json, os, sys
from paretune.core.errors import UserError
from paretune.distributed import ray_session as session
from pathlib import Path

def fails():
    raise UserError("no such dataset")

def dies():
    os._exit(1)

def asked():
    import ray
    return os.getpid(), ray.get_runtime_context().get_assigned_resources()

told = []
with session.session(Path(sys.argv[1])):
    session.session = lambda *_: contextlib.nullcontext()  # this one stands in for a cluster
    for work in (fails, dies):
        try:
            session.on_a_node(work, {"CPU": 0.5}, Path(), "auto")
        except RuntimeError as error:
            told.append(str(error))
    pid, has = session.on_a_node(asked, {"CPU": 0.5}, Path(), "auto")
    print("SEEN", json.dumps([told, pid != os.getpid(), has]))
"""


def test_work_on_a_node_takes_what_is_asked_for_and_tells_in_a_line_why_it_failed(tmp_path):
    command = [sys.executable, "-c", ON_A_NODE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (mistake, death), elsewhere, has = json.loads(done.stdout.partition("SEEN ")[2])
    assert mistake == "no such dataset"
    assert death.startswith("the worker died")
    assert elsewhere
    assert has == {"CPU": 0.5}


STOPPED = """
import os, signal, sys, time
from pathlib import Path
from paretune.distributed import ray_session as session

def trial(_):
    from ray import tune
    tune.report({"map": 1.0})

try:
    with session.terminated_like_interrupted():
        with session.session(Path(sys.argv[1])):
            from ray import tune
            tune.Tuner(trial, run_config=tune.RunConfig(storage_path=sys.argv[1], verbose=0)).fit()
        os.kill(os.getpid(), int(sys.argv[2]))
        time.sleep(20)
    print("WENT ON")
except KeyboardInterrupt:
    print("STOPPED")
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_what_is_asked_to_stop_after_its_trials_stops(tmp_path, how):
    """Ray and Tune have handlers of their own, which they leave."""
    command = [sys.executable, "-c", STOPPED, str(tmp_path), str(int(how))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["STOPPED"]), done.stderr


CODE = """
import json, os, sys, tempfile
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from paretune.distributed.ray_session import cores, session
with session(Path(sys.argv[1])):
    import ray

    @ray.remote
    def look():
        import os, platform, paretune
        return platform.__file__, paretune.__file__, os.getpriority(os.PRIO_PROCESS, 0)

    there = [path.name[:3] for path in Path(tempfile.gettempdir()).iterdir()]
    print("SEEN", json.dumps([*ray.get(look.remote()), cores(), there]))
"""


@pytest.fixture
def temporary():
    """A TMPDIR that other sessions do not use; short: socket paths are limited."""
    folder = Path(tempfile.mkdtemp(prefix="t-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_worker_has_the_standard_librarys_platform_our_package_and_normal_priority(tmp_path, temporary):
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    platform, package, niceness, cores, there = json.loads(done.stdout.partition("SEEN ")[2])
    assert Path(platform).parent == Path(sysconfig.get_path("stdlib"))
    assert Path(package).parent == ROOT / "platform" / "paretune"
    assert niceness == 0
    assert cores == 1  # those that the process may run on, not the machine's
    assert "pt-" in there  # its folder, while it ran
    assert list(temporary.glob("pt-*")) == []
    assert [p.name for p in tmp_path.iterdir()] == [".ray-token"]
