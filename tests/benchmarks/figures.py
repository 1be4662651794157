"""What all benchmarks share: figures against what was promised, as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "runs" / "bench"


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run a function in a thread while the block runs; it is to return once its event is set."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True)
class Figure:
    """One measured figure and what it must be."""

    name: str
    value: float | None
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        """Tell whether it is as promised; an unknown value is not."""
        if self.value is None:
            return False
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)

    @property
    def wanted(self) -> str:
        """Say what was promised."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""


@dataclass
class Figures:
    """The figures of one benchmark."""

    name: str
    rows: list[Figure] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: float | None, unit: str = "", **wanted: float) -> None:
        """Add one figure; ``at_least`` or ``at_most`` is what was promised."""
        self.rows.append(Figure(name, value, unit, **wanted))

    def end(self, *, as_json: bool) -> int:
        """Print everything; returns 1 if a promise was missed, naming it."""
        table = Table(title=f"benchmark {self.name}")
        for column in ("figure", "value", "promised", ""):
            table.add_column(column, justify="right" if column == "value" else "left")
        for row in self.rows:
            value = "unknown" if row.value is None else f"{row.value:.4g} {row.unit}".strip()
            mark = "" if not row.wanted else "met" if row.met else "MISSED"
            table.add_row(row.name, value, row.wanted, mark)
        Console(width=120).print(table)
        missed = [row.name for row in self.rows if row.wanted and not row.met]
        if missed:
            print(f"missed: {'; '.join(missed)}", file=sys.stderr)
        if as_json:
            rows = [{**asdict(row), "met": row.met} for row in self.rows]
            print(json.dumps({"benchmark": self.name, "figures": rows, "missed": missed, **self.more}))
        return 1 if missed else 0


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """Return a parser of the arguments that every benchmark has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser


def arguments(about: str | None) -> argparse.Namespace:
    """Read the arguments that every benchmark has."""
    return parser_of(about).parse_args()


def photographs() -> Path:
    """Return the folder of real photographs; without one a benchmark that needs it ends with 1."""
    folder = os.environ.get("PARETUNE_DATASETS")
    if not folder or not Path(folder).is_dir():
        print("PARETUNE_DATASETS names no folder of photographs (bccd/, playing_cards/)", file=sys.stderr)
        sys.exit(1)
    return Path(folder)


def paretune(*words: str, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one paretune command, its progress shown, its output kept; where it may fail, what it says of that too."""
    command = [sys.executable, "-m", "paretune", *words]
    errors = None if check else subprocess.PIPE
    return subprocess.run(command, cwd=cwd, check=check, text=True, stdout=subprocess.PIPE, stderr=errors)


def speedups(sweep: Path, trial: int) -> dict[str, float | None]:
    """Return how much faster a trial is than both baselines, from the sweep's interleaved comparison."""
    table = json.loads((sweep / "comparison.json").read_text())["trials"].get(str(trial), {})
    return {base: (table.get(base) or {}).get("speedup") for base in ("eager", "onnxruntime")}


def fastest_within(front: dict[str, Any], metric: str, drop: float) -> dict[str, Any] | None:
    """Return the fastest point of a front whose metric is within ``drop`` of the baseline's."""
    floor = front["baseline"]["metrics"][metric] - drop
    return next((point for point in front["front"] if point["metrics"][metric] >= floor), None)


def add_front(figures: Figures, front: dict[str, Any], sweep: Path) -> None:
    """Add what the issue asks of a front."""
    points = front["front"]
    dense = front["baseline"]["metrics"]["params"]
    figures.add("points on the front", len(points), at_least=3)
    figures.add("pruned points on the front", sum(p["metrics"]["params"] < dense for p in points), at_least=1)
    best = fastest_within(front, "map50", 0.02)
    gains = speedups(sweep, best["trial"]) if best else {"eager": None, "onnxruntime": None}
    figures.add("fastest within 0.02 map50, against eager fp32", gains["eager"], "x", at_least=3)
    figures.add("fastest within 0.02 map50, against ONNX Runtime fp32", gains["onnxruntime"], "x", at_least=1.25)
    figures.add("baseline map50", front["baseline"]["metrics"]["map50"])
    figures.more["front"] = front
