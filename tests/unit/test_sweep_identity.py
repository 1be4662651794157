"""A resumed sweep with other data, space, versions or machine is refused, or goes on if it is told to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import main
from paretune.config.plan import read_plan
from paretune.core.errors import UserError
from paretune.core.types import Data
from paretune.results.sweep_folder import Sweep, find_sweep, new_sweep
from paretune.storage.trial_record import write_record
from paretune.workflows import sweep_identity
from paretune.workflows.baseline import baseline_failure
from paretune.workflows.sweep_identity import KEY, check_identity, differences
from tests_support_documented import printed, words
from tests_support_records import complete, recipe

JOB = """\
dataset: {shapes: {train: 8, val: 4, size: 64x48}}
detector: yolo
input_size: 64x64
space: space.yaml
"""
SPACE = """\
input_size: 64x64
runtime: {choices: [onnxruntime, eager]}
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "space.yaml").write_text(SPACE)
    return new_sweep(read_plan(tmp_path / "job.yaml"), "one")


DATA = Data(("a", "b"), {}, "0011", facts={"train_images": 8})


def again(sweep: Sweep) -> Sweep:
    """Return the sweep as another process finds it."""
    return find_sweep(sweep.runs, sweep.name)


def begun(sweep: Sweep) -> Sweep:
    """Return the sweep after its first run."""
    check_identity(sweep, DATA, lambda _: None)
    write_record(sweep.folder, complete(0, recipe("64x64", runtime="eager"), 0.5, 5.0))
    return again(sweep)


def test_changed_targets_are_refused_with_the_difference(sweep: Sweep) -> None:
    changed = begun(sweep)
    job = {**changed.facts["job"], "targets": {"local": {"threads": 1}, "fast": {"threads": 2}}}
    changed.note(job=job)
    with pytest.raises(UserError, match="targets: fast: none → cpu, 2 threads"):
        check_identity(again(sweep), DATA, lambda _: None)
    lines: list[str] = []
    check_identity(again(sweep), DATA, lines.append, accept=True)
    assert lines == ["changed since the sweep began, and accepted: targets: fast: none → cpu, 2 threads"]
    assert "latency_ms: not known of trial 0, the eager baseline on fast: it was not measured on fast" in str(
        baseline_failure(again(sweep))
    )


def test_a_sweep_that_is_as_it_was_goes_on(sweep: Sweep) -> None:
    lines: list[str] = []
    check_identity(begun(sweep), DATA, lines.append)
    assert lines == []


CHANGES: dict[str, Any] = {
    "data": dataclasses.replace(DATA, fingerprint="0022", facts={"train_images": 9}),
    "same counts": dataclasses.replace(DATA, fingerprint="0022"),
    "classes": dataclasses.replace(DATA, classes=("a", "c")),
}


@pytest.mark.parametrize(
    ("change", "shown"), [("data", "train_images: 8 → 9"), ("same counts", "0011 → 0022"), ("classes", "'c'")]
)
def test_other_data_are_refused_until_they_are_accepted(sweep: Sweep, change: str, shown: str) -> None:
    old, lines = begun(sweep), list[str]()
    with pytest.raises(UserError) as refused:
        check_identity(old, CHANGES[change], lines.append)
    assert shown in str(refused.value)
    (again_command,) = printed(str(refused.value))
    assert words(again_command) == ["resume", "one", "--accept-changes"]
    assert again(sweep).facts[KEY] == old.facts[KEY]
    check_identity(again(sweep), CHANGES[change], lines.append, accept=True)
    assert shown in lines[0]
    check_identity(again(sweep), CHANGES[change], lines.append)  # from now on it is what it should be
    assert len(lines) == 1
    assert shown in again(sweep).facts["changes"][0]


def test_an_edited_space_is_refused_with_its_lines(sweep: Sweep) -> None:
    old = begun(sweep)
    file = old.folder / "space.yaml"
    file.write_text(file.read_text().replace("onnxruntime, eager", "onnxruntime, openvino"))
    with pytest.raises(UserError) as refused:
        check_identity(again(sweep), DATA, lambda _: None)
    assert "space: -runtime: {choices: [onnxruntime, eager]}" in str(refused.value)
    assert "space: +runtime: {choices: [onnxruntime, openvino]}" in str(refused.value)


@pytest.mark.parametrize(("name", "value"), [("cpu", "another CPU"), ("machine_cores", 64)])
def test_another_machine_is_refused(sweep: Sweep, monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    old, here = begun(sweep), sweep_identity.environment
    monkeypatch.setattr(sweep_identity, "environment", lambda target: {**here(target), name: value})
    with pytest.raises(UserError, match=f"machine: {name}"):
        check_identity(old, DATA, lambda _: None)


def test_a_sweep_of_this_machine_goes_on_on_no_cluster_and_the_other_way_round(sweep: Sweep) -> None:
    old = begun(sweep)
    with pytest.raises(UserError, match="place: trials run on: this machine → a Ray cluster"):
        check_identity(old, DATA, lambda _: None, elsewhere=True)
    check_identity(old, DATA, lambda _: None, elsewhere=True, accept=True)
    with pytest.raises(UserError, match="place: trials run on: a Ray cluster → this machine") as refused:
        check_identity(again(old), DATA, lambda _: None)
    assert "resume one --address http://HEAD:8265" in str(refused.value)


@pytest.mark.parametrize(
    ("field", "asked", "named"),
    [
        ("resources", {"custom": {"rtx4090": 1}}, "resources.custom: rtx4090"),
        ("targets", {"server": {"threads": 1}, "board": {"labels": {"board": "jetson"}}}, "targets.board"),
    ],
)
def test_a_sweep_that_needs_nodes_of_a_cluster_is_not_begun_on_a_private_ray(
    field: str, asked: Any, named: str, sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.note(job={**sweep.facts["job"], field: asked})
    before = (sweep.folder / "sweep.json").read_bytes()
    assert main(["resume", "one", "--trials", "3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
    assert printed(line) == [line.partition("by: ")[2]]
    assert printed(line)[0].endswith("resume one --address http://HEAD:8265")
    assert (sweep.folder / "sweep.json").read_bytes() == before


def test_another_version_is_refused(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    old = begun(sweep)
    monkeypatch.setattr(sweep_identity, "__version__", "99.0")
    with pytest.raises(UserError, match=r"packages: paretune: .* → 99\.0"):
        check_identity(old, DATA, lambda _: None)


def test_nothing_is_compared_before_the_first_trial_nor_with_a_sweep_of_an_older_version(sweep: Sweep) -> None:
    check_identity(sweep, DATA, lambda _: None)
    check_identity(again(sweep), CHANGES["data"], lambda _: None)
    write_record(sweep.folder, complete(0, recipe("64x64", runtime="eager"), 0.5, 5.0))
    older = again(sweep)
    del older.facts[KEY]
    check_identity(older, DATA, lambda _: None)
    assert older.facts[KEY]["data"]["fingerprint"] == "0011"


def test_what_is_not_known_here_keeps_what_was_known(sweep: Sweep) -> None:
    old = begun(sweep)
    check_identity(old, None, lambda _: None, elsewhere=True, accept=True)
    assert again(sweep).facts[KEY]["data"]["fingerprint"] == "0011"
    assert differences({"data": None}, {"data": {"fingerprint": "1"}}) == []
