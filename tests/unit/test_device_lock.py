"""The lock, with real processes; /proc and flock itself are the oracle."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from paretune.system import device_holders, device_lock, device_waiter
from paretune.system.device_lock import SharedCores, exclusive_device, lock_folder, shared_device, sharing_cores
from tests_support import ROOT, with_locks_of_its_own
from tests_support_nvml import FIRST, SECOND, FakeNvml, gpu, put

HOLD = """
import sys, time
from paretune.system.device_lock import exclusive_device, shared_device
with {"alone": exclusive_device, "share": shared_device}[sys.argv[1]](sys.argv[2]):
    print("held", flush=True)
    sys.stdin.readline()
print("free", flush=True)
"""
TELLS = HOLD.replace(
    "with {",
    "from paretune.system.device_waiter import tell_waits\ntell_waits(lambda _: print('waits', flush=True))\nwith {",
)
TRAIN = """
import sys, time
from paretune.system.device_lock import shared_device
print("go", flush=True)
while True:
    with shared_device(sys.argv[1]):
        time.sleep(0.05)
"""
FORK = """
import os, sys, time
from paretune.system.device_lock import exclusive_device
with exclusive_device(sys.argv[1]):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module", autouse=True)
def _common_locks():
    """The processes that are started here must meet this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_lock, "lock_folder", lock_folder)
        yield


@pytest.fixture
def device():
    name = f"test:{uuid.uuid4().hex}"
    yield name
    for path in lock_folder().glob(f"{name.replace(':', '-')}.*"):
        path.unlink()


@contextmanager
def process(code, *arguments):
    started = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "platform")},
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        started.stdin.close()
        started.stdout.close()


def heard(holder):
    """Return a list to which the process's next line will be added."""
    said = []
    threading.Thread(target=lambda: said.append(holder.stdout.readline()), daemon=True).start()
    return said


def let_go(holder):
    holder.stdin.write("\n")
    holder.stdin.flush()


def is_free(device, mode=fcntl.LOCK_EX, part="lock"):
    """Ask the kernel, not our own code."""
    with (lock_folder() / f"{device.replace(':', '-')}.{part}").open("a") as file:
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def becomes(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_alone_keeps_everybody_out(device):
    with exclusive_device(device):
        assert not is_free(device)
        assert not is_free(device, fcntl.LOCK_SH)
    assert is_free(device)


def test_several_share_and_none_is_alone(device):
    with process(HOLD, "share", device) as other, shared_device(device):
        assert other.stdout.readline() == "held\n"
        assert is_free(device, fcntl.LOCK_SH)
        assert not is_free(device)


def test_a_waiting_measurer_goes_before_a_later_trainer(device):
    with process(HOLD, "share", device) as trainer:
        assert trainer.stdout.readline() == "held\n"
        with process(HOLD, "alone", device) as measurer:
            assert becomes(lambda: not is_free(device, part="gate"))
            with process(HOLD, "share", device) as late:
                said = heard(late)
                time.sleep(0.5)
                assert said == []  # though it could share with the first trainer at once
                let_go(trainer)
                assert measurer.stdout.readline() == "held\n"
                assert said == []
                let_go(measurer)
                assert becomes(lambda: said == ["held\n"])


def test_a_stream_of_trainers_does_not_starve_a_measurer(device):
    with process(TRAIN, device) as one, process(TRAIN, device) as two, process(TRAIN, device) as three:
        for trainer in (one, two, three):
            assert trainer.stdout.readline() == "go\n"
        for _ in range(3):
            start = time.monotonic()
            with exclusive_device(device) as waited:
                assert time.monotonic() - start < 60
                assert 0 <= waited < 60
                assert not is_free(device, fcntl.LOCK_SH)


@pytest.mark.parametrize("mode", ["alone", "share"])
def test_killing_the_holder_frees_the_device(device, mode):
    with process(HOLD, mode, device) as holder:
        assert holder.stdout.readline() == "held\n"
        assert not is_free(device)
        holder.kill()
        assert becomes(lambda: is_free(device))


def test_forked_children_do_not_keep_the_lock_of_a_killed_parent(device):
    with process(FORK, device) as holder:
        child = int(holder.stdout.readline())
        try:
            assert not is_free(device)
            holder.kill()
            holder.wait()
            assert Path(f"/proc/{child}").exists()  # it lives on
            assert becomes(lambda: is_free(device))
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def test_a_fork_leaves_the_parents_lock_alone(device):
    with exclusive_device(device):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert not is_free(device)


def test_waiting_for_oneself_is_an_error_and_for_another_thread_is_not(device):
    got = threading.Event()

    def other():
        with exclusive_device(device):
            got.set()

    with shared_device(device):
        with pytest.raises(RuntimeError, match="wait for itself"), exclusive_device(device):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        assert not got.wait(0.2)
    assert got.wait(60)
    thread.join()
    assert is_free(device)


def test_sharing_what_one_shares_already_changes_nothing(device):
    with shared_device(device):
        with shared_device(device) as waited:
            assert waited == 0
        assert not is_free(device)  # the inner one has not let go
        assert is_free(device, fcntl.LOCK_SH)
    assert is_free(device)
    with exclusive_device(device), pytest.raises(RuntimeError, match="wait for itself"), shared_device(device):
        pass


def test_what_runs_on_a_gpu_shares_the_cpu_too(device, monkeypatch, tmp_path):
    monkeypatch.setattr(device_lock, "lock_folder", lambda: tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "lock_folder", lambda: tmp_path)
    gpu = device.replace("test", "cuda")
    for hold, gpu_is_shared in ((shared_device, True), (exclusive_device, False)):
        with hold(gpu):
            assert not is_free("cpu")  # nobody measures on the CPU
            assert is_free("cpu", fcntl.LOCK_SH)
            assert is_free(gpu, fcntl.LOCK_SH) == gpu_is_shared
            with shared_device("cpu"):
                pass
            assert not is_free("cpu")
        assert is_free("cpu")
        assert is_free(gpu)


def test_waiting_is_told_and_a_free_device_is_not(device, monkeypatch):
    monkeypatch.setattr(device_waiter, "_told", [])
    monkeypatch.setattr(device_waiter, "_printed", {})
    lines = []
    device_waiter.tell_waits(lines.append)
    with exclusive_device(device):
        assert lines == []
    with process(HOLD, "share", device) as other:
        assert other.stdout.readline() == "held\n"
        device_waiter.tell_waits(lambda line: lines.append(line) or let_go(other))
        with exclusive_device(device) as waited:
            assert waited >= 0.9 * device_waiter.MOMENT
    (line,) = lines
    assert f"process {other.pid}," in line
    assert device in line


def told(monkeypatch):
    """The lines that are said in this process from now on."""
    monkeypatch.setattr(device_waiter, "_told", [])
    monkeypatch.setattr(device_waiter, "_printed", {})
    lines = []
    device_waiter.tell_waits(lines.append)
    return lines


def test_who_is_waited_for_is_told_by_what_it_does_and_since_when(device, monkeypatch):
    monkeypatch.setenv(device_holders.DOING, "sweep quickstart")
    lines, begun = told(monkeypatch), time.time()
    with process(HOLD, "alone", device) as other:
        assert other.stdout.readline() == "held\n"
        held = time.time()
        with shared_device(device, patience=0.3) as waited:
            assert 0.3 <= waited < 5
    waiting, going_on = lines
    moments = {time.strftime("%H:%M:%S", time.localtime(begun + part)) for part in range(int(held - begun) + 2)}
    for line in (waiting, going_on):
        assert f"sweep quickstart, process {other.pid}, has been measuring on it since" in line
        assert line[-8:] in moments


def test_the_one_who_measures_next_is_told_to_those_it_keeps_out(device, monkeypatch):
    lines = told(monkeypatch)
    with process(HOLD, "share", device) as trainer:
        assert trainer.stdout.readline() == "held\n"
        with process(HOLD, "alone", device) as measurer:
            assert becomes(lambda: not is_free(device, part="gate"))
            with shared_device(device, patience=0.2):
                pass
            assert f"process {measurer.pid}, is next to measure on it" in lines[0]


@pytest.mark.slow
def test_thousands_of_short_waits_for_one_holder_are_told_once(device, monkeypatch):
    lines = told(monkeypatch)
    with process(HOLD, "alone", device) as other:
        assert other.stdout.readline() == "held\n"
        for _ in range(20):
            with shared_device(device, patience=0.0):
                pass
        assert len(lines) == 1  # that it goes on
        for _ in range(3):
            with shared_device(device, patience=1.0):
                pass
        assert len(lines) == 2
    with process(HOLD, "alone", device) as another:
        assert another.stdout.readline() == "held\n"
        with shared_device(device, patience=1.0):
            pass
    assert [f"process {other.pid}," in line for line in lines] == [True, True, False]
    assert f"process {another.pid}," in lines[-1]


def test_who_goes_on_without_the_lock_keeps_nobody_out(device):
    with process(HOLD, "alone", device) as other:
        assert other.stdout.readline() == "held\n"
        with shared_device(device, patience=0.0), shared_device(device, patience=0.0):
            let_go(other)
            assert other.stdout.readline() == "free\n"
            assert is_free(device)
            assert is_free(device, part="gate")
    with shared_device(device, patience=10.0) as waited:
        assert waited < 5
        assert not is_free(device)


def test_the_note_of_a_killed_holder_is_believed_by_nobody(device, monkeypatch):
    lines = told(monkeypatch)
    with process(HOLD, "alone", device) as killed:
        assert killed.stdout.readline() == "held\n"
        (note,) = lock_folder().glob(f"{device.replace(':', '-')}.*.note")
        killed.kill()
        killed.wait()
        assert note.exists()  # nobody took it away
        with (lock_folder() / f"{device.replace(':', '-')}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # somebody who leaves no note
            with shared_device(device, patience=1.0):
                pass
        assert lines
        assert not any(str(killed.pid) in line for line in lines)
        assert not note.exists()


def test_notes_go_with_their_holders(device):
    def notes():
        return [*lock_folder().glob(f"{device.replace(':', '-')}.*.note")]

    with shared_device(device), process(HOLD, "share", device) as other:
        assert other.stdout.readline() == "held\n"
        assert len(notes()) == 2
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert len(notes()) == 2
        let_go(other)
        assert other.stdout.readline() == "free\n"
        assert other.wait() == 0
        assert len(notes()) == 1
    assert notes() == []


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """Two GPUs, and locks of this test's own."""
    monkeypatch.setattr(device_lock, "lock_folder", lambda: tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "lock_folder", lambda: tmp_path)
    return put(monkeypatch, FakeNvml(gpu(uuid=FIRST), gpu(uuid=SECOND)))


@pytest.mark.parametrize(
    ("visible", "device", "locks"),
    [
        (None, "cuda", {FIRST}),
        (None, "cuda:1", {SECOND}),
        ("1", "cuda", {SECOND}),
        ("1,0", "cuda:1", {FIRST}),
        (SECOND, "cuda", {SECOND}),
        ("GPU-bbbb", "cuda:0", {SECOND}),
        ("", "cuda", {FIRST, SECOND}),  # no knowing which one: all
        ("GPU-cccc", "cuda", {FIRST, SECOND}),
        ("MIG-1", "cuda", {SECOND}),
    ],
)
def test_a_gpu_is_the_same_lock_in_every_process(gpus, monkeypatch, visible, device, locks):
    gpus.instances["MIG-1"] = {"uuid": "MIG-1", "parent": gpus.gpus[1]}
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert set(device_lock.locks_of(device)) == locks
    with exclusive_device(device):
        assert {uuid for uuid in (FIRST, SECOND) if not is_free(uuid)} == locks


def test_measuring_on_one_gpu_does_not_stop_training_on_another(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with exclusive_device("cuda"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        done = threading.Event()

        def trains():
            with shared_device("cuda"):
                done.set()

        other = threading.Thread(target=trains)
        other.start()
        other.join(10)
        assert done.is_set()
        assert not is_free("cpu")  # only measuring on the CPU has to wait
        assert is_free("cpu", fcntl.LOCK_SH)
    assert is_free("cpu")


def test_gpus_of_several_models_are_locked_together_while_their_order_is_unknown(gpus, monkeypatch):
    gpus.gpus[1]["name"] = "Fake 200"
    assert set(device_lock.locks_of("cuda")) == {FIRST, SECOND}
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert device_lock.locks_of("cuda") == (FIRST,)


def test_without_nvml_all_gpus_are_one_lock(gpus):
    gpus.init = FakeNvml.NVMLError("Driver Not Loaded")
    assert device_lock.locks_of("cuda:0") == device_lock.locks_of("cuda:1") == ("cuda",)
    gpus.init = None  # a failure is not kept
    assert device_lock.locks_of("cuda:1") == (SECOND,)


def test_one_worker_holds_the_gpus_of_all_on_its_machine(gpus):
    with shared_device(*device_lock.locks_of("cuda:0"), *device_lock.locks_of("cuda:1")):
        for name in ("cpu", FIRST, SECOND):
            assert is_free(name, fcntl.LOCK_SH)
            assert not is_free(name)
        with shared_device("cuda:1") as waited:
            assert waited == 0


def test_those_who_share_and_meet_at_the_gate_are_told_nothing(device, monkeypatch):
    monkeypatch.setattr(device_waiter, "_told", [])
    monkeypatch.setattr(device_waiter, "MOMENT", 5.0)
    lines = []
    device_waiter.tell_waits(lines.append)
    with (lock_folder() / f"{device.replace(':', '-')}.gate").open("a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        threading.Timer(0.2, fcntl.flock, [gate, fcntl.LOCK_UN]).start()
        with shared_device(device) as waited:
            assert waited > 0
    assert lines == []


def test_an_error_inside_frees_the_device(device):
    with pytest.raises(ZeroDivisionError), exclusive_device(device):
        _ = 1 / 0
    assert is_free(device)
    with exclusive_device(device):  # and the thread may take it again
        assert not is_free(device)


def test_devices_are_independent(device):
    with exclusive_device(device), exclusive_device(f"{device}-1") as waited:
        assert waited < 5
    for path in lock_folder().glob(f"{device.replace(':', '-')}-1.*"):
        path.unlink()


def test_a_file_that_a_cleaner_took_away_is_not_mistaken_for_the_lock(device):
    path = lock_folder() / f"{device.replace(':', '-')}.lock"
    with process(HOLD, "alone", device) as first:
        assert first.stdout.readline() == "held\n"
        with process(TELLS, "alone", device) as second:
            assert second.stdout.readline() == "waits\n"  # it has the old file open
            path.unlink()
            with path.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # a third holds the new one
                let_go(first)
                assert first.stdout.readline() == "free\n"
                assert second.stdout.readline() == "waits\n"  # now for the third
                answer = heard(second)
                time.sleep(0.3)
                assert answer == []
            assert becomes(lambda: answer == ["held\n"])


def test_somebody_elses_folder_is_refused(monkeypatch):
    monkeypatch.setattr(device_lock.os, "getuid", lambda: 2_000_000_000)
    folder = None
    try:
        with pytest.raises(RuntimeError, match="not a folder of this user"):
            folder = lock_folder()
        assert folder is None
    finally:
        for path in Path("/tmp").glob("paretune-locks-2000000000"):  # noqa: S108
            path.rmdir()


def test_jobs_with_a_tmpdir_of_their_own_meet(monkeypatch, tmp_path):
    usual = lock_folder()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(device_lock.tempfile, "tempdir", None)
    assert lock_folder() == usual


APART = """
import os, sys
from paretune.system.device_lock import SharedCores, exclusive_device, shared_device, sharing_cores
hold = {"alone": exclusive_device, "share": shared_device}[sys.argv[1]]
with sharing_cores(SharedCores((1,), (0,))):
    while True:
        with hold("cpu"):
            print(sorted(os.sched_getaffinity(0)), flush=True)
            if not sys.stdin.readline().strip():
                break
print("free", flush=True)
"""
APART_ALONE = APART.replace('"alone": exclusive_device', '"alone": lambda device: exclusive_device(device, alone=True)')


@pytest.fixture
def two_cores(tmp_path, monkeypatch):
    """Return an environment in which processes lock devices in a folder of the test."""
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("this process may not use cores 0 and 1")
    monkeypatch.setenv("PYTHONPATH", with_locks_of_its_own(tmp_path / "x", str(ROOT / "platform")))
    folder = tmp_path / "x-locks" / "locks"
    monkeypatch.setattr(device_lock, "lock_folder", lambda: folder)
    return sorted(os.sched_getaffinity(0))


def waits_at(gate):
    """Return whether a process waits for a lock of `two_cores`, as it keeps its gate closed meanwhile."""
    with (device_lock.lock_folder() / gate).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextmanager
def apart(code, *arguments):
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def test_a_worker_goes_on_beside_a_measurement_on_the_other_core_and_has_all_cores_afterwards(two_cores):
    with apart(APART, "share") as worker:
        assert worker.stdout.readline() == f"{two_cores}\n"
        with apart(APART, "alone") as measuring:
            found = heard(measuring)
            assert becomes(lambda: waits_at("cpu.gate"))
            assert found == []  # the worker's epoch has to end first
            worker.stdin.write("again\n")
            worker.stdin.flush()
            assert worker.stdout.readline() == "[0]\n"
            assert becomes(lambda: found == ["[1]\n"])
            let_go(measuring)
            assert measuring.stdout.readline() == "free\n"
        worker.stdin.write("again\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == f"{two_cores}\n"


@pytest.mark.parametrize(("code", "held"), [(HOLD, "held"), (APART_ALONE, None)], ids=["foreign", "alone"])
def test_nothing_runs_beside_another_measurement_or_one_that_wants_the_machine_alone(two_cores, code, held):
    with ExitStack() as stack:
        measuring = stack.enter_context(apart(APART, "alone"))
        assert measuring.stdout.readline() == "[1]\n"
        worker = stack.enter_context(apart(APART, "share"))
        assert worker.stdout.readline() == "[0]\n"
        with apart(code, "alone", "cpu") as other:
            found = heard(other)
            let_go(measuring)
            assert measuring.stdout.readline() == "free\n"
            assert becomes(lambda: waits_at("cpu-apart-1.gate"))
            assert found == []  # the worker is still at work
            worker.stdin.write("again\n")
            worker.stdin.flush()
            assert becomes(lambda: found == [f"{held or two_cores}\n"])
            again = heard(worker)
            time.sleep(0.3)
            assert again == []
            let_go(other)
            assert becomes(lambda: again != [])


def test_a_worker_without_a_division_of_the_cores_is_kept_out(two_cores):
    with ExitStack() as stack:
        measuring = stack.enter_context(apart(APART, "alone"))
        assert measuring.stdout.readline() == "[1]\n"
        other = stack.enter_context(apart(HOLD, "share", "cpu"))
        found = heard(other)
        assert becomes(lambda: waits_at("cpu.gate"))
        assert found == []
        let_go(measuring)
        assert becomes(lambda: found == ["held\n"])


def test_who_works_beside_a_measurement_cannot_measure_at_once(two_cores):
    cores = SharedCores((1,), (0,))
    with apart(APART, "alone") as measuring:
        measuring.stdout.readline()
        with sharing_cores(cores), shared_device("cpu"), shared_device("cpu"):
            assert os.sched_getaffinity(0) == {0}
            with pytest.raises(RuntimeError, match="would wait for itself"), exclusive_device("cpu"):
                pass
        assert sorted(os.sched_getaffinity(0)) == two_cores
        with sharing_cores(cores), shared_device("cpu", patience=0.2):
            assert os.sched_getaffinity(0) == {0}


def test_users_share_a_folder_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_locks: Path) -> None:
    monkeypatch.setattr(device_lock, "lock_folder", lock_folder)  # ours, not that of the tests
    monkeypatch.setenv("PARETUNE_LOCKS", str(tmp_path))
    tmp_path.chmod(0o777)
    assert lock_folder() == tmp_path
    with shared_device("cpu"):
        made = list(tmp_path.iterdir())
        assert {path.suffix for path in made} == {".lock", ".gate", ".note"}
        assert {path.stat().st_mode & 0o777 for path in made} == {0o666}
    for mode in (0o1777, 0o500):
        tmp_path.chmod(mode)
        if mode == 0o1777 or os.geteuid():
            with pytest.raises(RuntimeError, match="install -d -m 0777"):
                lock_folder()
    tmp_path.chmod(0o777)
    monkeypatch.setenv("PARETUNE_LOCKS", str(tmp_path / "absent"))
    with pytest.raises(RuntimeError, match="PARETUNE_LOCKS"):
        lock_folder()
