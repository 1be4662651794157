"""A server of the log that fails keeps nobody waiting and loses nothing, and no secret is left anywhere.

By the code of `make bench NAME=tracking`, with sweeps whose trials cost nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests_support import ROOT

BENCHMARKS = ROOT / "tests" / "benchmarks"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def benchmark(folder: Path, *words: str) -> Any:
    """The figures of the benchmark, by their names."""
    command = [sys.executable, str(BENCHMARKS / "tracking.py"), *words, "--json", "--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(BENCHMARKS)])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False, env=environment)
    assert done.stdout, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])["figures"]}, done.stdout


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return benchmark(tmp_path_factory.mktemp("tracking"), "--short")


@pytest.mark.parametrize("fault", ["500", "silent"])
def test_a_failing_server_keeps_no_stage_waiting_and_loses_nothing(fault: str, tried: Any) -> None:
    figures, text = tried
    rows = [row for name, row in figures.items() if name.startswith(f"{fault}: ")]
    assert len(rows) == 5
    assert all(row["met"] for row in rows), text


def test_no_secret_is_left_or_printed(tried: Any) -> None:
    figures, text = tried
    rows = [row for name, row in figures.items() if name.startswith("secrets")]
    assert len(rows) == 5
    assert all(row["met"] for row in rows), text


@pytest.mark.full
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("part", ["faults", "secrets", "hostile"])
def test_the_long_form(part: str, tmp_path: Path) -> None:
    figures, text = benchmark(tmp_path, "--part", part)
    assert figures
    assert all(row["met"] for row in figures.values() if row["at_most"] is not None or row["at_least"] is not None), (
        text
    )
