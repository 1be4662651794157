"""``paretune profile`` where something fails: what was measured stays, and does not look like all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.cli.main import main
from paretune.core.errors import UserError
from paretune.profiling.latency.compare import Comparison
from paretune.profiling.latency.samples import COLUMNS
from paretune.profiling.latency.throughput import Throughput
from paretune.reports import profile_report as profile
from paretune.runtimes.eager import Eager
from paretune.storage.atomic_files import check_new_folder
from paretune.workflows import profile as profiles
from tests_support_profiles import DEPLOYED, latency, two_artefacts

DIED = "the measuring process was killed by SIGKILL"


def dies(*_: Any, **__: Any) -> Any:
    raise RuntimeError(DIED)


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a profile of two artefacts: small takes 10 ms, wide 40, and nothing is really measured."""
    monkeypatch.chdir(tmp_path)
    two_artefacts(tmp_path)
    monkeypatch.setattr(profiles, "measure", measured)
    monkeypatch.setattr(profiles, "deployed", lambda *_: DEPLOYED)
    monkeypatch.setattr(profiles, "compare", compared)
    return ["profile", "small", "wide", "--data", "images.yaml", "--no-operators"]


def measured(folder: Path, *_: Any) -> Any:
    return latency(70, preprocess=1, network=6 if folder.name == "small" else 36, postprocess=3)


def compared(folders: Any, *_: Any, **__: Any) -> Comparison:
    times = np.tile(np.arange(1.0, 1 + len(folders)), (2, 2, 1))
    rows, place = np.zeros((1, len(COLUMNS)), np.int64), np.zeros((1, 3), np.int64)
    return Comparison(rows, place, times, times, "wall", facts=({},) * len(folders))


def failing_for(name: str) -> Any:
    return lambda folder, *given: dies() if folder.name == name else measured(folder, *given)


def test_of_a_profile_that_is_whole_nothing_is_said_to_fail(words: list[str], capsys: Any) -> None:
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["failures"] == []
    assert [entry["artefact"] for entry in told["comparison"]["artefacts"]] == ["small", "wide"]
    assert told["comparison"]["artefacts"][1]["latency"]["ratio"] == pytest.approx(2)


def test_a_later_artefact_that_cannot_be_measured_costs_no_earlier_figure(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(profiles, "measure", failing_for("wide"))
    assert main([*words, "--out", "told"]) == 1
    said = capsys.readouterr()
    assert "10.000" in said.out
    assert f"latency: not known, {DIED}" in said.out
    assert f"not measured: wide: {DIED}" in said.err
    told = json.loads(Path("told/profile.json").read_text())
    small, wide = told["artefacts"]
    assert small["metrics"]["latency_ms_p50"] == 10
    assert (wide["metrics"], wide["reasons"]) == ({}, {"latency_ms_p50": DIED})
    assert told["comparison"] == {"artefacts": [], "reason": "only small could be measured"}
    assert told["failures"] == [f"wide: {DIED}", "comparison: only small could be measured"]
    names = {path.name for path in Path("told").iterdir()}
    assert names == {"profile.html", "profile.json", "samples-0.npz"}


def test_nothing_is_compared_with_a_first_that_was_not_measured(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(profiles, "measure", failing_for("small"))
    assert main([*words, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["artefacts"][1]["metrics"]["latency_ms_p50"] == 40
    assert told["comparison"]["reason"] == "small, which the others are compared with, could not be measured"


def test_where_nothing_could_be_measured_there_is_no_profile(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(profiles, "measure", dies)
    assert main([*words, "--out", "told"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()[-1]) == ("", f"profile: small: {DIED}; wide: {DIED}")
    assert not Path("told").exists()


def test_a_comparison_or_a_load_that_fails_is_told_and_the_rest_stays(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def throughput(folder: Path, file: Path, target: Any, streams: int, *, batch: int) -> Throughput:
        return dies() if batch == 8 else Throughput(streams, batch, 1, 99.0, 98.0, 100.0, 10.0)

    monkeypatch.setattr(profiles, "compare", dies)
    monkeypatch.setattr(profiles, "throughput", throughput)
    assert main([*words, "--batch", "1", "8", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["comparison"]["reason"] == DIED
    for entry in told["artefacts"]:
        one, eight = entry["throughput"]
        assert one["images_per_second"] == 99
        assert eight == {"reason": f"1 streams, batch 8: not known, {DIED}"}
    assert len(told["failures"]) == 3
    assert main([*words, "--batch", "8"]) == 1
    assert f"1 streams, batch 8: not known, {DIED}" in capsys.readouterr().out


@pytest.mark.parametrize("out", ["images.yaml/told", "images.yaml/more/told", "small", "x" * 300])
def test_a_folder_that_cannot_be_written_is_found_before_anything_is_measured(
    words: list[str], out: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(profiles, "measure", dies)
    before = sorted(Path().iterdir())
    assert main([*words, "--out", out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{out}: cannot be written (" if out != "small" else "small exists already")
    assert sorted(Path().iterdir()) == before


def test_looking_whether_a_folder_can_be_made_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for place in ("told", "there/told", "new/newer/told"):
        check_new_folder(tmp_path / place)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["there"]


def test_an_artefact_that_cannot_run_here_is_found_before_anything_is_measured(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(profiles, "measure", dies)
    monkeypatch.setattr(Eager, "devices", ("cuda",))
    assert main([*words, "--device", "cpu", "--threads", "1"]) == 2
    assert capsys.readouterr().err == "small: eager runs on cuda here, not on cpu\n"
    monkeypatch.setattr(Eager, "libraries", ("no_such_library",))
    assert main(words) == 2
    assert "needs no_such_library: not installed here" in capsys.readouterr().err
    monkeypatch.undo()


def test_what_was_measured_is_shown_before_it_is_written(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(*_: Any) -> None:
        raise UserError("told: cannot be written (No space left on device)")

    monkeypatch.setattr(profile, "write_profile", full)
    assert main([*words, "--out", "told"]) == 2
    said = capsys.readouterr()
    assert "10.000" in said.out
    assert "No space left" in said.err
