"""``paretune store`` lists what is stored and removes what was not used for longest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.cli.main import main
from paretune.storage.stage_store import StageStore


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    store = StageStore(str(tmp_path / "runs" / "store"))
    for number, step in enumerate(({"prune": {"ratio": 0.5, "learn_sparsity": 0}}, {"finetune": {"epochs": 8}})):
        (folder := tmp_path / str(number)).mkdir()
        (folder / "weights").write_bytes(b"0" * 2**19)
        store.write(f"{number:016x}", folder, {"step": step})
    return tmp_path / "runs"


def test_it_lists_what_is_stored(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "list", "--runs", str(runs)]) == 0
    printed = capsys.readouterr().out
    assert "prune (ratio 0.5)" in printed
    assert "2 results, 1.0 MiB" in printed
    assert main(["store", "list", "--runs", str(runs), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["bytes"] == 2**20
    assert [entry["step"] for entry in body["entries"]] == [
        {"prune": {"ratio": 0.5, "learn_sparsity": 0}},
        {"finetune": {"epochs": 8}},
    ]


def test_it_removes_down_to_a_size(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--url", str(runs / "store")]
    assert main(["store", "prune", *place, "--max-gib", str(0.75 / 1024)]) == 0
    assert capsys.readouterr().out.startswith("removed 1 result, 0.5 MiB; 1 result, 0.5 MiB stay")
    assert main(["store", "prune", *place, "--max-gib", "0"]) == 0
    assert main(["store", "list", *place]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("nothing is stored")


def test_a_size_below_nothing_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "prune", "--runs", str(runs), "--max-gib", "-1"]) == 2
    assert "--max-gib -1" in capsys.readouterr().err
