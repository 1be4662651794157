"""Commands that are printed for the reader run where they are read: quoted, with their folder, as ours was called."""

from __future__ import annotations

import ast
import errno
import re
import shlex
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import build_parser, main
from paretune.config.plan import read_plan
from paretune.core import hints
from paretune.core.errors import UserError
from paretune.results.front_summary import comparison_of
from paretune.results.sweep_folder import Sweep, new_sweep
from paretune.tracking.sweep_tracker import MlflowTracker
from paretune.workflows.sweep import run_sweep
from paretune.workflows.sweep_reporter import SweepReporter
from tests_support import ROOT
from tests_support_documented import printed, words

PACKAGE = ROOT / "platform" / "paretune"
SPOKEN = {
    "cli/main.py": "the example under --help",
    "cli/options.py": "help: a verb's name",
    "cli/advise.py": "help: verbs' names",
    "workflows/sweep_log_worker.py": "the source of a run in MLflow",
    "workflows/trial_failure.py": "failure.txt: the verb that goes on from a kept network",
    "config/output_folder.py": "why a name is refused: whose folder it is",
}
"""Files with the text `paretune VERB` outside of docstrings that is no command to type → what it is."""
PROVOKED = {
    "results/sweep_folder.py": 2,  # here: Sweep.command, and a name that is taken
    "profiling/nsight/run.py": 1,  # of ncu, for itself: nothing that is printed
    "workflows/baseline.py": 2,  # test_sweep.py: a baseline that failed, and one that has not learned
    # system/test_documented.py: the end of a sweep; test_measuring.py: no comparison; here: a damaged comparison
    "results/front_summary.py": 3,
    "results/sweep_reader.py": 1,  # test_live_view.py: a sweep that nothing runs
    "results/trial_comparison.py": 2,  # test_look.py: latencies of two runs, intervals that overlap
    "workflows/sweep.py": 1,  # here: a full disk
    "tracking/sweep_tracker.py": 1,  # here
    "tracking/ui_server.py": 1,  # test_log_verbs.py: a sweep that the server does not have
    "tracking/model_registry.py": 1,  # test_log_verbs.py: a trial that is not logged
    "workflows/sweep_log.py": 1,  # test_log_verbs.py: a log that is complete
    "workflows/sweep_reporter.py": 1,  # test_log_verbs.py: where the log goes
    "workflows/sweep_log_client.py": 1,  # test_sweep_log.py: a server that is slow at the end of a sweep
    "workflows/sweep_identity.py": 2,  # test_sweep_identity.py: a sweep that changed, or needs a cluster
    "workflows/confirm.py": 1,  # test_confirm.py: a sweep without a front
    "api/running.py": 1,  # system/test_killed.py: Ctrl-C
    "cli/train.py": 3,  # system/test_train.py: Ctrl-C; system/test_documented.py: the end
    "cli/optimize.py": 1,  # system/test_documented.py
    "cli/advise.py": 1,  # system/test_documented.py
    "distributed/ray_jobs.py": 4,  # test_ray_jobs.py, system/test_cluster.py
    "workflows/like_machines.py": 1,  # test_like_machines.py
    "cli/cluster.py": 2,  # test_ray_jobs.py
    "data/scanned_dataset.py": 1,  # here
    "data/left_out.py": 1,  # test_data_left_out.py: a split without objects
    "cli/data_convert.py": 1,  # test_data_convert.py: a policy that the reader does not have
}
"""File → commands that it prints; each is provoked by a test, which reads what was printed as the program does."""


def taken(line: str) -> Any:
    """Read a printed command as a shell and the program do."""
    return build_parser().parse_args(words(line))


def test_every_printed_command_is_made_by_one_function_and_is_provoked_by_a_test() -> None:
    typed = re.compile(rf"\bparetune ({'|'.join(verb_names())})\b")
    calls, texts = Counter[str](), set[str]()
    for file in PACKAGE.rglob("*.py"):
        nodes, name = list(ast.walk(ast.parse(file.read_text()))), str(file.relative_to(PACKAGE))
        documented = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                calls[name] += called == "command"
            elif isinstance(node, ast.Constant) and id(node) not in documented and typed.search(str(node.value)):
                texts.add(name)
    assert +calls == Counter(PROVOKED)
    assert texts == set(SPOKEN)


def verb_names() -> list[str]:
    """The verbs of the command line."""
    (verbs,) = (action for action in build_parser()._actions if getattr(action, "choices", None))
    return list(verbs.choices)


@pytest.mark.parametrize(
    ("called", "on_path", "expected"),
    [
        ("bin/paretune", False, ["{folder}/bin/paretune"]),
        ("bin/paretune", True, ["paretune"]),
        ("paretune/__main__.py", False, [sys.executable, "-m", "paretune"]),
        ("bin/pytest", False, ["paretune"]),
    ],
)
def test_the_program_is_named_as_it_was_called_or_as_the_shell_finds_it(
    called: str, on_path: bool, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bin/paretune", "bin/pytest"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path / "bin") if on_path else "/nowhere")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / called)])
    wanted = [word.format(folder=tmp_path) for word in expected]
    assert shlex.split(hints.command("ui", "--runs", tmp_path / "my runs")) == [
        *wanted,
        "ui",
        "--runs",
        str(tmp_path / "my runs"),
    ]


def test_a_printed_command_is_found_by_the_shell_that_typed_the_last() -> None:
    """On the real command line: the module, from another folder than its own."""
    shown = "from paretune.core.hints import command; import sys; print(command('plugins', 'sampler'))"
    code = f"import runpy, sys; sys.argv[0] = {str(PACKAGE / '__main__.py')!r}; {shown}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    done = subprocess.run(["bash", "-c", said], capture_output=True, text=True, check=False, cwd=ROOT / "platform")
    assert done.returncode == 0, done.stderr
    assert "gp" in done.stdout


@pytest.mark.parametrize("runs", ["runs", "my runs/deep"])
def test_a_sweep_that_exists_is_gone_on_with_where_it_lies(
    runs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = read_plan(ROOT / "jobs/quickstart.yaml", {"output": runs})
    new_sweep(plan, "mine")
    with pytest.raises(UserError) as raised:
        new_sweep(plan, "mine")
    (line,) = printed(str(raised.value))
    given = taken(line)
    assert (given.sweep, given.runs) == ("mine", Path(runs))
    assert ("--runs" in line) == (runs != "runs")
    assert Sweep(Path(runs), "mine").command("front") == hints.command("front", *words(line)[1:])


def test_a_log_that_cannot_be_written_is_caught_up_with_where_the_sweep_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "my runs"
    runs.mkdir()
    (runs / "mlflow.db").mkdir()  # no database can be opened there
    MlflowTracker(runs, "mine", None, "paretune").start({}, 0.0)
    (line,) = printed(capsys.readouterr().err)
    given = taken(line)
    assert (given.sweep, given.runs) == ("mine", runs)


def test_a_dataset_with_defects_names_the_command_that_tells_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And that command, typed as it was printed, finds them."""
    from paretune.data.formats.yolo import YoloFolder

    folder = tmp_path / "my data"
    made = ["data", "convert", str(ROOT / "jobs/quickstart.yaml"), str(folder), "--to", "yolo"]
    monkeypatch.chdir(tmp_path)
    job = tmp_path / "job.yaml"
    space = ROOT / "search_spaces/quickstart.yaml"
    job.write_text(
        f"dataset: {{shapes: {{train: 6, val: 4, size: 96x64}}}}\ndetector: yolo\ninput_size: 96x64\nspace: {space}\n"
    )
    assert main([*made[:2], str(job), *made[3:]]) == 0
    label = min(folder.glob("labels/train/*.txt"))
    label.write_text("0 half 0.5 0.1 0.1\n")
    with pytest.raises(UserError) as raised:
        YoloFolder(root=str(folder)).open(tmp_path)
    (line,) = printed(str(raised.value))
    capsys.readouterr()
    assert main(words(line)) == 1
    assert label.name in capsys.readouterr().out


def test_a_damaged_comparison_names_the_command_that_measures_the_front_again(tmp_path: Path) -> None:
    sweep = new_sweep(read_plan(ROOT / "jobs/quickstart.yaml", {"output": str(tmp_path / "my runs")}), "mine")
    sweep.comparison.write_text('{"trials": ')
    with pytest.raises(UserError, match=r"comparison\.json: damaged") as raised:
        comparison_of(sweep)
    (line,) = printed(str(raised.value))
    assert (taken(line).sweep, taken(line).runs) == ("mine", sweep.runs)


def test_a_full_disk_ends_a_sweep_with_the_command_that_goes_on(tmp_path: Path) -> None:
    sweep = new_sweep(read_plan(ROOT / "jobs/quickstart.yaml", {"output": str(tmp_path / "my runs")}), "mine")

    class Full(SweepReporter):
        def prepare(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="a disk is full") as raised:
        run_sweep(sweep, reporter=Full(sweep))
    (line,) = printed(str(raised.value))
    assert (taken(line).sweep, taken(line).runs) == ("mine", sweep.runs)
