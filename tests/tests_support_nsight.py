"""A fake Nsight Compute, and predictors that its profiled process can load; torch is imported inside functions only."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FILES = Path(__file__).parent / "data" / "nsight"
VERSION = "Version 2025.3.1.0 (build 1) (public-release)"
SCRIPT = """#!/bin/sh
printf '%s\\n' "$@" END >> '{folder}/calls'
case "$1" in
--version) echo 'NVIDIA (R) Nsight Compute Command Line Profiler'; cat '{folder}/version';;
--import) test -f "$2" || exit 9; cat '{folder}'/"$5".csv;;
*) while [ "$1" != --export ]; do shift; done; report="$2"; shift 2; . '{folder}/run';;
esac
"""


class FakeNcu:
    """An executable ``ncu`` in a folder of its own, put first on the PATH.

    Its run is a few words of sh: ``$report`` is the file to export to, ``"$@"`` the program to be profiled.
    """

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "version").write_text(VERSION + "\n")
        for page in ("raw", "details"):
            (folder / f"{page}.csv").write_text((FILES / f"{page}.csv").read_text())
        script = folder / "ncu"
        script.write_text(SCRIPT.format(folder=folder))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        self.runs('echo a report > "$report"')

    def runs(self, words: str) -> None:
        (self.folder / "run").write_text(words)

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of each call but those for the version."""
        told = (self.folder / "calls").read_text().split("\nEND\n")
        return [call.split("\n") for call in told if call and call != "--version"]


def load_fake(folder: Path, target):
    """Load an artefact of the fake detector, which a process of its own does not know."""
    from paretune.detectors import DETECTORS
    from paretune.runtimes.predictor import load_predictor
    from tests_support_profiling import FAKE_ROW

    DETECTORS.rows["fake"] = FAKE_ROW
    return load_predictor(folder, target)


SIDE = 4096


class Planted:
    """Single-precision work of which one product of matrices is by far the most."""

    def __init__(self) -> None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False
        self.matrix = torch.ones(SIDE, SIDE, device="cuda")

    def preprocess(self, image):
        return image, None

    def core(self, batch):
        import torch

        added = self.matrix + float(batch[0, 0, 0])
        return torch.relu((added @ self.matrix).sum(dim=0)).cpu()


def load_planted(folder: Path, target) -> Planted:
    if target.device != "cuda":
        sys.exit("only a GPU has kernels")
    return Planted()
