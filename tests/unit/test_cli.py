"""The command line itself: where it runs, and the codes it ends with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import build_parser, main
from tests_support import ROOT

ELSEWHERE = """\
import sys

sys.platform = {platform!r}
for module in ("fcntl", "resource", "paretune.cli.options", "paretune.cli.sweep"):
    sys.modules[module] = None  # cannot be imported there
from paretune.cli.main import main

sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("platform", ["darwin", "win32"])
@pytest.mark.parametrize("words", [["--help"], ["sweep", "job.yaml"]])
def test_on_another_system_it_says_in_one_line_that_it_needs_linux(platform: str, words: list[str]) -> None:
    command = [sys.executable, "-c", ELSEWHERE.format(platform=platform), *words]
    environment = {"PYTHONPATH": str(ROOT / "platform")}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    (line,) = run.stderr.splitlines()
    assert "Linux" in line
    assert platform in line


def test_what_is_not_understood_and_what_is_wrong_both_end_with_2(capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        main(["no-such-verb"])
    assert end.value.code == 2
    assert main(["check", "no-such-file.yaml"]) == 2
    assert "no-such-file.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["show quick --runs x 4", "show --runs x quick 4", "show quick 4 --runs x"])
def test_options_may_stand_between_arguments(line: str) -> None:
    given = build_parser().parse_args(line.split())
    assert (given.sweep, given.trial, given.runs) == ("quick", 4, Path("x"))


def test_options_between_the_arguments_of_a_verb_of_a_verb() -> None:
    given = build_parser().parse_args(["mlflow", "rebuild", "--runs", "x", "quick"])
    assert (given.sweep, given.runs) == ("quick", Path("x"))
