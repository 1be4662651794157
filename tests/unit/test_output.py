"""Names in an output folder, and two who want the same one at once: one gets it, nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import main
from paretune.config import output_folder as output
from paretune.config.output_folder import checked_name, new_sweep_name
from paretune.config.plan import read_plan
from paretune.core.errors import UserError
from paretune.results import folder_claims
from paretune.results.folder_claims import claimed, remove, removed_if_failed
from paretune.results.sweep_folder import Sweep, find_sweep, new_sweep
from paretune.storage.atomic_files import new_folder
from paretune.system import file_lock
from paretune.system.file_lock import exclusive_file_lock
from paretune.tracking import mlflow_client as client
from paretune.tracking import ui_server as ui
from tests_support import ROOT

JOB = """\
dataset: {shapes: {train: 8, val: 4, size: 64x48}}
detector: {yolo: {variant: nano}}
input_size: 160
space: space.yaml
"""
SPACE = "{input_size: 160, steps: [{prune: {ratio: {low: 0.1, high: 0.5}}}], runtime: onnxruntime}"

AT_ONCE = """\
import os, sys, time
from pathlib import Path

from paretune.storage import atomic_files as store
from paretune.workflows import sweep, train as trainings
from paretune.cli.main import main

before = store.sync

def both_have_a_draft(path):
    # the folder was looked for by then, and is not made yet
    (Path("meeting") / str(os.getpid())).touch()
    end = time.monotonic() + 30
    while len(list(Path("meeting").iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    before(path)

store.sync = both_have_a_draft
sweep.run_sweep = lambda made, **_: print("runs", made.facts["created"]) or sweep.SweepResult(True, ())
trainings.run_training = lambda place, *_, **__: print("runs", place.folder.stat().st_ino)
sys.exit(main(sys.argv[1:]))
"""
"""The command line, whose folders are made at the same moment by two processes."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "meeting").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def two(code: str, *words: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of two processes that run the same."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    command = [sys.executable, "-c", code, *words]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    said = [process.communicate(timeout=50) for process in both]
    return sorted((process.returncode, out, err) for process, (out, err) in zip(both, said, strict=True))


@pytest.mark.parametrize("verb", ["sweep", "train"])
def test_of_two_that_begin_under_one_name_one_does_and_the_other_is_told(verb: str, place: Path) -> None:
    won, lost = two(AT_ONCE, verb, "job.yaml", "--name", "mine")
    assert (won[0], lost[0]) == (0, 2), (won, lost)
    assert "runs" in won[1]
    assert lost[1] == ""
    (line,) = lost[2].splitlines()
    assert "exists already" in line
    if verb == "sweep":
        assert won[1].split()[1] == str(find_sweep(Path("runs"), "mine").facts["created"])
        assert sorted(path.name for path in Path("runs").iterdir()) == ["mine"]  # no draft is left
    else:
        assert won[1].split()[1] == str(Path("runs/trainings/mine").stat().st_ino)
        assert sorted(path.name for path in Path("runs/trainings").iterdir()) == ["mine"]


CLAIMS = """\
import sys, time
from pathlib import Path

from paretune.core.errors import UserError
from paretune.results.folder_claims import claimed
from paretune.storage.atomic_files import new_folder

out = Path("deep/out")
try:
    with claimed(out):
        end = time.monotonic() + 30  # until the other one was told
        while not Path("told").exists() and time.monotonic() < end:
            time.sleep(0.01)
        with new_folder(out) as draft:
            (draft / "mine").write_text("hours")
        print("written")
except UserError as error:
    Path("told").touch()
    print(error, file=sys.stderr)
    sys.exit(2)
"""


def test_of_two_that_will_write_one_new_folder_the_second_is_told_at_once(place: Path) -> None:
    won, lost = two(CLAIMS)
    assert (won[0], won[1].strip()) == (0, "written")
    assert (lost[0], len(lost[2].splitlines())) == (2, 1)
    assert "another process is about to write it" in lost[2]
    assert [path.name for path in Path("deep").iterdir()] == ["out"]  # the claim is gone
    assert Path("deep/out/mine").read_text() == "hours"


@pytest.mark.parametrize(
    "words",
    [["profile", "none"], ["advise", "none"], ["optimize", "none", "--step", "quantize"]],
    ids=lambda words: words[0],
)
def test_every_verb_that_works_for_long_before_it_writes_claims_its_folder_first(
    words: list[str], place: Path, capsys: Any
) -> None:
    with claimed(Path("new/out")):
        assert main([*words, "--out", "new/out"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("new/out: another process is about to write it")
    assert not Path("new").exists()  # what was made for the claim alone goes with it
    Path("new/out").mkdir(parents=True)
    assert main([*words, "--out", "new/out"]) == 2
    assert capsys.readouterr().err == "new/out exists already; name a new folder with --out\n"
    Path("new/out").rmdir()
    assert main([*words, "--out", "new/out"]) == 2  # there is no such artefact
    assert "none" in capsys.readouterr().err
    assert list(Path("new").iterdir()) == []


def made_while_another_makes_it(goal: Path, *, replace: bool) -> None:
    with new_folder(goal, replace=replace) as draft:
        (draft / "second").touch()
        goal.mkdir()
        (goal / "first").touch()


def test_a_folder_that_came_meanwhile_is_not_replaced_unless_that_is_meant(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists"):
        made_while_another_makes_it(tmp_path / "new", replace=False)
    made_while_another_makes_it(tmp_path / "again", replace=True)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == ["again", "again/second", "new", "new/first"]


def test_an_empty_folder_is_filled_and_a_file_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as draft:
        (draft / "mine").touch()
    assert (tmp_path / "empty" / "mine").exists()
    (tmp_path / "file").write_text("kept")
    with pytest.raises(FileExistsError), new_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "kept"


def test_a_job_whose_file_is_called_so_needs_another_name(
    place: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("job.yaml").rename("weights.yaml")
    assert main(["sweep", "weights.yaml"]) == 2
    assert "--name" in capsys.readouterr().err
    assert main(["submit", "weights.yaml", "--address", "http://127.0.0.1:9"]) == 2
    assert "sweep name 'weights'" in capsys.readouterr().err
    Path("weights.yaml").rename("my job.yaml")
    assert main(["sweep", "my job.yaml"]) == 2
    assert "--name" in capsys.readouterr().err


def test_whatever_we_put_into_an_output_folder_is_reserved(tmp_path: Path) -> None:
    """Hidden files apart, which no sweep can be called like."""
    for name in (client.DATABASE, client.ARTEFACTS, ui.LOG, output.DATASETS, output.TRAININGS, output.WEIGHTS):
        with pytest.raises(UserError):
            new_sweep_name(name)
    with pytest.raises(UserError):
        new_sweep_name(".ray-token")
    for name in ("data", "datasets2", "mlflow", "training"):
        assert new_sweep_name(name) == name
    assert checked_name("weights", "training") == "weights"  # trainings lie in a folder of their own
    old = tmp_path / "weights"  # of before the name was reserved: it can still be looked at
    old.mkdir()
    (old / "sweep.json").write_text(json.dumps({}))
    assert find_sweep(tmp_path, "weights").folder == old


def test_something_else_under_the_name_is_not_taken_for_a_sweep(place: Path) -> None:
    Path("runs/mine").mkdir(parents=True)
    with pytest.raises(UserError, match="runs/mine exists already, and is no sweep; --name gives another name"):
        new_sweep(read_plan(Path("job.yaml")), "mine")


def test_the_hint_of_a_name_that_is_taken_finds_the_sweep(place: Path) -> None:
    plan = read_plan(Path("job.yaml"), {"output": "my runs"})
    new_sweep(plan, "mine")
    with pytest.raises(UserError, match="`paretune resume mine --runs 'my runs'` goes on with it"):
        new_sweep(plan, "mine")


def test_a_lock_on_a_folder_that_was_removed_is_none(tmp_path: Path) -> None:
    """Who waits at the door while the folder goes is told so, and locks no file that nobody sees."""
    folder = tmp_path / "mine"
    folder.mkdir()
    with exclusive_file_lock(folder, "sweep 'mine'"):
        with (
            pytest.raises(UserError, match="is being run by another process"),
            exclusive_file_lock(folder, "sweep 'mine'"),
        ):
            pass
        remove(folder)
    with pytest.raises(UserError, match="mine was removed"), exclusive_file_lock(folder, "sweep 'mine'"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_was_made_anew_meanwhile_is_locked_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, opened = tmp_path / ".lock", list[int]()
    before = os.open

    def replaced(path: Any, *more: Any) -> int:
        handle = before(path, *more)
        opened.append(handle)
        if len(opened) == 1:
            Path(path).unlink()
        return handle

    monkeypatch.setattr(file_lock.os, "open", replaced)
    with exclusive_file_lock(tmp_path, "it"):
        assert len(opened) == 2
        assert os.fstat(opened[1]).st_ino == file.stat().st_ino


@pytest.mark.parametrize(("error", "done", "stays"), [(ValueError, False, False), (ValueError, True, True)])
@pytest.mark.parametrize("stops", [False, True])
def test_a_folder_in_which_nothing_was_done_goes_with_the_failure(
    error: type[Exception], done: bool, stays: bool, stops: bool, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "sweep.json").touch()
    raised: type[BaseException] = KeyboardInterrupt if stops else error
    with pytest.raises(raised), removed_if_failed(tmp_path / "mine", lambda: done):
        raise raised
    assert [path.name for path in tmp_path.iterdir()] == (["mine"] if stays or stops else [])


def test_claims_of_one_process_one_after_the_other(tmp_path: Path) -> None:
    with claimed(None), claimed(tmp_path / "a"), claimed(tmp_path / "b"):
        pass
    with claimed(tmp_path / "a"), new_folder(tmp_path / "a") as draft:
        (draft / "x").touch()
    with pytest.raises(UserError, match="exists already"), claimed(tmp_path / "a"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_claim_whose_folder_was_written_while_it_was_waited_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()
    before = folder_claims.check_new_folder

    def late(folder: Path) -> None:
        before(folder)
        if not looked.is_set():
            looked.set()
            folder.mkdir()

    monkeypatch.setattr(folder_claims, "check_new_folder", late)
    with pytest.raises(UserError, match="exists already"), claimed(tmp_path / "a"):
        pass


def test_sweeps_of_one_output_folder_share_one_cache() -> None:
    assert Sweep(Path("there"), "a").cache == output.dataset_cache(Path("there")) == Path("there/datasets")
