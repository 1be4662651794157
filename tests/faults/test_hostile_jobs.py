"""Jobs, spaces and names made to do harm: each is refused with one clear error, and nothing runs or is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import main

JOB = """\
dataset: {{shapes: {{train: 8, val: 4}}}}
detector: {detector}
input_size: 160
space: {space}
{more}
"""
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
JOBS = {
    "a tag that calls": {"more": "baseline: !!python/object/apply:os.system ['touch harmed']"},
    "a tag that makes an object": {"more": "training: !!python/object:subprocess.Popen {args: [touch, harmed]}"},
    "a tag of a name": {"more": "output: !!python/name:os.system"},
    "entities within entities": {"more": LAUGHS},
    "a field that is a class": {"more": "__class__: {__init__: 1}"},
    "a detector that is a module": {"detector": "os:system"},
    "a detector with a path": {"detector": "../../detector"},
    "a number beyond all": {"more": "training: {epochs: 1e999}"},
    "no number": {"more": "training: {lr: .nan}"},
    "a number of a thousand digits": {"more": f"search: {{trials: {'9' * 1000}}}"},
    "a space that is no space": {"space": "/etc/passwd"},
    "a space that is a device": {"space": "/dev/zero"},
    "a space with a null byte": {"space": '"a\\0b"'},
    "a password in a URL": {"more": "tracking: {uri: 'http://me:secret@host'}"},
    "a password in the store's URL": {"more": "store: {url: 's3://key:secret@bucket/store'}"},
    "a database that is a file": {"more": "search: {storage: '/etc/passwd'}"},
    "a label with a command": {"more": "targets: {a: {labels: {board: '$(touch harmed)'}}}"},
    "targets' names with paths": {"more": "targets: {../a: {}, b: {}}"},
    "a device with a command": {"more": "targets: {a: {device: 'cpu; touch harmed'}}"},
    "nested beyond all": {"more": "baseline: " + "[" * 5000},
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "space.yaml").write_text("runtime: onnxruntime\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.timeout(30)
@pytest.mark.parametrize("given", JOBS.values(), ids=JOBS)
def test_a_job_is_refused_and_does_nothing(given: dict[str, str], place: Path, capsys: Any) -> None:
    text = JOB.format(**({"detector": "yolo", "space": "space.yaml", "more": ""} | given))
    (place / "job.yaml").write_text(text)
    before = sorted(place.rglob("*"))
    assert main(["sweep", "job.yaml"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "Traceback" not in told.err
    assert told.err.strip()
    assert len(told.err) < 3000
    assert all(line.startswith(("job.yaml", "space", "/")) for line in told.err.splitlines())
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("verb", ["sweep", "train", "front", "resume"])
@pytest.mark.parametrize(
    "name",
    ["../up", "a/b", "/a", ".", "..", "", "$(touch harmed)", "a;touch harmed", "a\nb", "a\x1b[2J", "a" * 300, "-rf"],
)
def test_a_name_is_refused_in_one_line(verb: str, name: str, place: Path, capsys: Any) -> None:
    if name == "-rf" and verb in ("front", "resume"):
        pytest.skip("that is an option")
    (place / "job.yaml").write_text(JOB.format(detector="yolo", space="space.yaml", more=""))
    before = sorted(place.rglob("*"))
    words = [verb, "job.yaml", f"--name={name}"] if verb in ("sweep", "train") else [verb, name]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert sorted(place.rglob("*")) == before
