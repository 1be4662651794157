"""The stage store returns what was written, whole or not at all, on a local folder and on another file system."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import fsspec
import pytest

from paretune.core.errors import UserError
from paretune.storage.stage_store import INDEX, USED, StageStore

KEY, OTHER = "ab12cd34ab12cd34", "ff00ff00ff00ff00"


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(url: str, said: list[str]) -> StageStore:
    return StageStore(url, warn=said.append)


def made(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def index_of(store: StageStore, key: str) -> tuple[fsspec.AbstractFileSystem, str]:
    files, root = fsspec.core.url_to_fs(store.url)
    return files, f"{root}/{key[:2]}/{key}"


def test_what_was_written_is_read(store: StageStore, tmp_path: Path, said: list[str]) -> None:
    assert store.read(KEY, tmp_path / "none") is None
    assert store.write(KEY, made(tmp_path / "a", weights=b"12", structure=b"{}"), {"history": ["prune"]})
    assert store.read(KEY, tmp_path / "back") == {"history": ["prune"]}
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == {
        "weights": b"12",
        "structure": b"{}",
    }
    assert [(stage.key, stage.bytes) for stage in store.entries()] == [(KEY, 4)]
    assert said == []


def test_a_second_result_takes_the_place_of_the_first(store: StageStore, tmp_path: Path) -> None:
    store.write(KEY, made(tmp_path / "a", weights=b"1"), {"n": 1})
    store.write(KEY, made(tmp_path / "b", weights=b"2"), {"n": 2})
    assert store.read(KEY, tmp_path / "back") == {"n": 2}
    assert (tmp_path / "back" / "weights").read_bytes() == b"2"


@pytest.mark.parametrize("harm", ["flipped", "missing", "longer"])
def test_a_damaged_file_is_found_and_the_entry_made_again(
    store: StageStore, tmp_path: Path, said: list[str], harm: str
) -> None:
    store.write(KEY, made(tmp_path / "a", weights=b"12"), {})
    files, place = index_of(store, KEY)
    body = json.loads(files.cat_file(f"{place}/{INDEX}"))
    file = f"{place}/{body['folder']}/weights"
    if harm == "missing":
        files.rm_file(file)
    else:
        files.pipe_file(file, b"13" if harm == "flipped" else b"123")
    assert store.read(KEY, tmp_path / "back") is None
    assert not (tmp_path / "back").exists()
    assert store.entry(KEY) is None
    assert len(said) == 1
    assert KEY in said[0]
    assert store.write(KEY, tmp_path / "a", {})
    assert store.read(KEY, tmp_path / "back") == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"paretune_stage": 1}', ""])
def test_a_damaged_index_is_no_entry(store: StageStore, tmp_path: Path, text: str) -> None:
    store.write(KEY, made(tmp_path / "a", weights=b"12"), {})
    files, place = index_of(store, KEY)
    files.pipe_file(f"{place}/{INDEX}", text.encode())
    assert store.read(KEY, tmp_path / "back") is None
    assert store.entries() == []


def test_a_name_that_leads_out_of_the_folder_is_not_followed(store: StageStore, tmp_path: Path) -> None:
    store.write(KEY, made(tmp_path / "a", weights=b"12"), {})
    files, place = index_of(store, KEY)
    body = json.loads(files.cat_file(f"{place}/{INDEX}"))
    body["files"] = {"../../escaped": body["files"]["weights"]}
    files.pipe_file(f"{place}/{INDEX}", json.dumps(body).encode())
    assert store.read(KEY, tmp_path / "deep" / "back") is None
    assert not (tmp_path / "escaped").exists()


def test_a_maker_that_was_killed_leaves_no_entry_and_is_cleared_away_later(store: StageStore, tmp_path: Path) -> None:
    files, place = index_of(store, KEY)
    files.makedirs(f"{place}/attempt", exist_ok=True)
    files.pipe_file(f"{place}/attempt/weights", b"half")
    assert store.entry(KEY) is None
    store.prune(10**9)
    assert files.exists(f"{place}/attempt/weights")  # its maker may still be at work
    StageStore(store.url, clock=lambda: time.time() + 7200).prune(10**9)
    assert not files.exists(f"{place}/attempt/weights")


KILLED = """
import os, signal, sys
from pathlib import Path
from paretune.storage.stage_store import StageStore

def at(event, given, seen=[]):
    if event == sys.argv[3] and "stage.json" in str(given[0]) and not seen:
        seen.append(event)
        if event == "open":
            os.close(os.open(given[0], os.O_WRONLY | os.O_CREAT))
        os.kill(os.getpid(), signal.SIGKILL)

store, folder = StageStore(sys.argv[1]), Path(sys.argv[2])
with store.making("KEY"):
    sys.addaudithook(at)
    store.write("KEY", folder, {})
""".replace("KEY", KEY)


@pytest.mark.parametrize("step", ["open", "os.rename"])
def test_the_draft_of_a_killed_maker_is_never_read_and_is_cleared_away_later(tmp_path: Path, step: str) -> None:
    """The index is an empty draft at the first step, and a whole one without its name at the second."""
    store, goal = StageStore(str(tmp_path / "store")), made(tmp_path / "a", weights=b"12")
    words = [sys.executable, "-c", KILLED, store.url, str(goal), step]
    assert subprocess.run(words, check=False, timeout=60).returncode == -signal.SIGKILL
    _, place = index_of(store, KEY)
    drafts = [path for path in Path(place).iterdir() if path.is_file()]
    assert len(drafts) == 1
    assert drafts[0].name != INDEX
    assert drafts[0].read_bytes() == b"" if step == "open" else KEY in drafts[0].read_text()
    assert store.entry(KEY) is None
    assert store.read(KEY, tmp_path / "back") is None
    assert store.entries() == []
    store.prune(10**9)
    assert drafts[0].exists()  # its maker may still be at work
    later = StageStore(store.url, clock=lambda: time.time() + 7200)
    with later.making(KEY):  # the lock of the killed maker is free
        assert later.write(KEY, made(tmp_path / "b", weights=b"345"), {"made": "again"})
    later.prune(10**9)
    assert later.read(KEY, tmp_path / "back") == {"made": "again"}
    assert (tmp_path / "back" / "weights").read_bytes() == b"345"
    left = {path.name for path in Path(place).iterdir()}
    assert len(left) == 3  # index, time of use, folder of the files
    assert {INDEX, USED} < left
    assert drafts[0].name not in left


def test_the_entries_that_were_not_used_for_longest_go_first(url: str, tmp_path: Path) -> None:
    store = StageStore(url, max_bytes=25)
    keys = [f"{number:016x}" for number in range(3)]
    for number, key in enumerate(keys[:2]):
        store.write(key, made(tmp_path / f"in{number}", weights=b"0123456789"), {})
        time.sleep(0.02)
    assert store.read(keys[0], tmp_path / "used") is not None
    time.sleep(0.02)
    store.write(keys[2], made(tmp_path / "in2", weights=b"0123456789"), {})
    assert {stage.key for stage in store.entries()} == {keys[0], keys[2]}
    store.write(OTHER, made(tmp_path / "big", weights=b"0" * 100), {})
    assert {stage.key for stage in store.entries()} == {OTHER}  # the newest stays, however large


def test_a_store_that_cannot_be_written_costs_the_entry_and_no_more(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    store = StageStore(str(tmp_path / "file" / "store"), warn=said.append)
    assert not store.write(KEY, made(tmp_path / "a", weights=b"1"), {})
    assert len(said) == 1


def test_one_maker_at_a_time(url: str) -> None:
    inside, most, order = 0, 0, threading.Lock()

    def make() -> None:
        nonlocal inside, most
        with StageStore(url).making(KEY):
            with order:
                inside += 1
                most = max(most, inside)
            time.sleep(0.05)
            with order:
                inside -= 1

    makers = [threading.Thread(target=make) for _ in range(4)]
    for maker in makers:
        maker.start()
    with StageStore(url).making(OTHER):  # another key waits for nobody
        pass
    for maker in makers:
        maker.join()
    assert most == 1


def test_a_protocol_that_is_unknown_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nosuch"):
        StageStore("nosuch://bucket/store").entry(KEY)


def test_use_is_noted_outside_of_the_index(store: StageStore, tmp_path: Path) -> None:
    store.write(KEY, made(tmp_path / "a", weights=b"1"), {})
    files, place = index_of(store, KEY)
    before = files.cat_file(f"{place}/{INDEX}")
    time.sleep(0.02)
    first = store.entry(KEY)
    store.read(KEY, tmp_path / "back")
    second = store.entry(KEY)
    assert first is not None
    assert second is not None
    assert second.used > first.used
    assert files.cat_file(f"{place}/{INDEX}") == before
    assert files.exists(f"{place}/{USED}")
