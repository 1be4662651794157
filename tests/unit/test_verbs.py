"""What all verbs share: ``--json``, examples under ``--help``, completion."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.examples import EXAMPLES, leaves
from paretune.cli.main import build_parser, main
from paretune.cli.options import answering
from tests_support import ROOT
from tests_support_records import finished_sweep

VERBS = dict(leaves(build_parser()))
WITHOUT_JSON = {"completion": "prints a script for a shell", "logs": "prints a log as it is"}
"""Verb → why it has no ``--json``."""
JOB = {"dataset": "shapes", "detector": "yolo", "space": "none.yaml", "input_size": 160}
BROKEN = "dataset: shapes\ndetector: yolo\ninput_size: 160\nspace: none.yaml\nserch: {trials: 3}\n"


def test_every_verb_answers_with_json_but_those_that_say_why_not() -> None:
    having = {verb for verb, parser in VERBS.items() if "--json" in parser._option_string_actions}
    assert having == set(VERBS) - set(WITHOUT_JSON)


def test_every_verb_has_an_example() -> None:
    assert set(EXAMPLES) == set(VERBS), "write examples of a new verb into cli/examples.py"
    assert all(1 <= len(examples) <= 2 for examples in EXAMPLES.values())


def examples_in(text: str) -> list[list[str]]:
    """The words of the examples of a help text, as a shell reads them; what is redirected is left out."""
    below = text.rpartition("examples:\n")[2]
    typed = below.replace("\\\n", " ").splitlines()
    return [shlex.split(line.partition(" > ")[0]) for line in typed if line.strip()]


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("verb", VERBS)
def test_examples_are_taken_as_they_are_printed(verb: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = VERBS[verb].format_help()
    examples = examples_in(text)
    assert len(examples) == len(EXAMPLES[verb])
    for program, *words in examples:
        assert program == "paretune"
        given = build_parser().parse_args(words)
        assert given.run is VERBS[verb].get_default("run") or given.run.__qualname__.startswith(
            ("answering", "answered", "claiming")
        )
        assert " ".join(words).startswith(verb)
        assert all((ROOT / word).is_file() for word in words if word.startswith("jobs/"))
    below = text.rpartition("examples:\n")[2].splitlines()
    longest = max(len(word) for line in below for word in line.split())
    assert max(map(len, below)) <= max(columns, longest + 8)


def test_only_the_answer_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    def verb(given: argparse.Namespace) -> int:
        print("talk")
        given.answer({"done": True})
        return 3

    assert answering(verb)(argparse.Namespace(json=True)) == 3
    said = capsys.readouterr()
    assert (json.loads(said.out), said.err) == ({"done": True}, "talk\n")
    assert answering(verb)(argparse.Namespace(json=False)) == 3
    assert capsys.readouterr() == ("talk\n", "")


def answer_of(capsys: Any, *words: str, code: int = 0) -> Any:
    """The one object that a verb prints on stdout."""
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_check_answers_with_every_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(BROKEN)
    found = answer_of(capsys, "check", "job.yaml", code=2)
    assert [(one["file"], one["line"]) for one in found["problems"] if "serch" in one["message"]] == [("job.yaml", 5)]
    right = answer_of(capsys, "check", str(ROOT / "search_spaces/quickstart.yaml"))
    assert (len(right["right"]), right["problems"]) == (1, [])


def test_a_dataset_that_is_written_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    job = "dataset: {shapes: {train: 4, val: 2, size: 64x48}}\ndetector: yolo\ninput_size: 64x48\n"
    Path("job.yaml").write_text(f"{job}space: {ROOT / 'search_spaces/quickstart.yaml'}\n")
    found = answer_of(capsys, "data", "convert", "job.yaml", "new", "--to", "yolo")
    assert (found["folder"], found["format"], found["images"]["train"]) == ("new", "yolo", 4)
    split = answer_of(capsys, "data", "split", "new", "again", "--val", "0.5", "--test", "0")
    assert sum(split["images"].values()) == 6


def test_a_finished_sweep_is_resumed_with_its_front_as_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from paretune.workflows import sweep as sweeps

    finished_sweep(tmp_path, JOB)
    monkeypatch.setattr(sweeps, "run_sweep", lambda *_, **__: print("talk") or sweeps.SweepResult(True, ()))
    found = answer_of(capsys, "resume", "demo", "--runs", str(tmp_path))
    assert found["finished"] is True
    assert found["folder"] == str(tmp_path / "demo")
    front = answer_of(capsys, "front", "demo", "--runs", str(tmp_path))
    assert {name: found[name] for name in front} == front


def completed(script: str, folder: Path, *words: str) -> list[str]:
    """What bash completes the last word to."""
    line = [
        f"source {script}",
        f"COMP_WORDS=({' '.join(shlex.quote(word) for word in ('paretune', *words))})",
        f"COMP_CWORD={len(words)}",
        "_shtab_paretune",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    ]
    done = subprocess.run(["bash", "-c", "\n".join(line)], cwd=folder, capture_output=True, text=True, check=True)
    return sorted(done.stdout.split())


def test_bash_completes_verbs_options_and_sweeps(tmp_path: Path, capsys: Any) -> None:
    assert main(["completion", "bash"]) == 0
    (script := tmp_path / "script").write_text(capsys.readouterr().out)
    for name in ("runs/first", "runs/second", "runs/datasets", "other/third"):
        (tmp_path / name).mkdir(parents=True)
        if name != "runs/datasets":
            (tmp_path / name / "sweep.json").touch()
    assert completed(str(script), tmp_path, "com") == ["compare", "completion"]
    assert completed(str(script), tmp_path, "data", "an") == ["annotate"]
    assert completed(str(script), tmp_path, "store", "list", "--js") == ["--json"]
    assert completed(str(script), tmp_path, "front", "") == ["first", "second"]
    assert completed(str(script), tmp_path, "front", "--runs", "other", "") == ["third"]
    assert completed(str(script), tmp_path, "check", "scr") == ["script"]


def test_zsh_gets_a_script_too(capsys: Any) -> None:
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef paretune")
