"""``paretune profile --nsight`` with a fake ncu: the command, what it saw, and everything that may hinder it."""

from __future__ import annotations

import csv
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paretune.core.target import Target
from paretune.profiling.nsight import child as nsight_child
from paretune.profiling.nsight import run as nsight
from paretune.profiling.nsight.csv_parser import launches, rules
from paretune.profiling.nsight.kernels import advice, bound_by, by_name
from paretune.profiling.nsight.run import NO_KERNELS, PERMISSION, NsightResults, look_at, preflight, version
from paretune.reports.nsight_tables import TOP, nsight_tables
from tests_support_nsight import FILES, FakeNcu

GPU = Target(device="cuda")
GEMM = "void gemm<(int)128, 64>(const float *, float *, T1::Params)"


@pytest.fixture
def ncu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNcu:
    return FakeNcu(tmp_path / "bin", monkeypatch)


def one(tmp_path: Path, **more: Any) -> nsight.NsightResult:
    looks = look_at([tmp_path / "artefact"], tmp_path / "images.npz", GPU, **more)
    assert looks.reason is None
    (look,) = looks.looks
    return look


def test_kernels_by_name_are_means_over_their_time() -> None:
    gemm, relu, copy = by_name(launches((FILES / "raw.csv").read_text()))
    assert (gemm.name, gemm.launches) == (GEMM, 2)
    assert gemm.seconds == pytest.approx(0.003)
    assert [kernel.share for kernel in (gemm, relu, copy)] == pytest.approx([30 / 36, 5 / 36, 1 / 36])
    assert gemm.sm_percent == pytest.approx((91.5 * 2 + 61.5) / 3)
    assert gemm.memory_percent == pytest.approx((40.25 * 2 + 52.25) / 3)
    assert gemm.dram_percent == pytest.approx((12.5 * 2 + 24.5) / 3)  # under its older name
    assert (gemm.occupancy_percent, gemm.waves) == (pytest.approx(37.5), pytest.approx(3.75))
    assert [kernel.bound for kernel in (gemm, relu, copy)] == ["compute", "memory", "latency"]
    assert (gemm.unknown, relu.unknown) == ({}, {})
    assert copy.dram_percent is None
    assert "1 of 1 launches" in copy.unknown["dram_percent"]


def test_what_an_h200_really_said_is_read() -> None:
    """Three kernels of a real report: a convolution, a pooling, and a product of 4096 x 4096 matrices in bfloat16."""
    product, *others = by_name(launches((FILES / "h200-raw.csv").read_text()))
    assert (len(others), product.launches, product.bound) == (2, 1, "compute")
    assert 2 * 4096**3 / product.seconds == pytest.approx(790e12, rel=0.05)  # what such a product is known to reach
    # the page of details has the same figures under other names
    details = list(csv.reader((FILES / "h200-details.csv").open()))
    name, value = (details[0].index(column) for column in ("Metric Name", "Metric Value"))
    printed = {row[name]: row[value].replace(",", "") for row in details[1:]}
    assert float(printed["Duration"]) / 1e9 == pytest.approx(product.seconds)
    assert float(printed["Compute (SM) Throughput"]) == pytest.approx(product.sm_percent)
    assert float(printed["DRAM Throughput"]) == pytest.approx(product.dram_percent)
    assert float(printed["Achieved Occupancy"]) == pytest.approx(product.occupancy_percent)
    assert float(printed["Waves Per SM"]) == pytest.approx(product.waves)
    proposals = rules((FILES / "h200-details.csv").read_text())
    assert {rule.name for rule in proposals} >= {"SOLBottleneck", "TheoreticalOccupancy"}


def test_advice_is_what_saves_most_of_the_whole() -> None:
    found = advice(launches((FILES / "raw.csv").read_text()), rules((FILES / "details.csv").read_text()))
    assert [(one.kernel, one.rule) for one in found] == [
        ("void relu_kernel(float4 *, int)", "SMSkew"),
        (GEMM, "MemoryCacheAccessPattern"),
    ]
    assert [one.saves for one in found] == pytest.approx([0.9 * 5 / 36, 0.1 * 20 / 36])
    assert found[1].text.startswith("Only 8.0 of")  # the launch where it saves most


@pytest.mark.parametrize(
    ("sm", "memory", "bound"),
    [(59.9, 59.9, "latency"), (60, 10, "compute"), (10, 60, "memory"), (70, 90, "memory"), (None, 90, None)],
)
def test_what_bounds_a_kernel(sm: float | None, memory: float | None, bound: str | None) -> None:
    assert bound_by(sm, memory) == bound


def test_the_command_looks_at_one_inference_and_leaves_the_gpu_as_it_is(ncu: FakeNcu, tmp_path: Path) -> None:
    look = one(tmp_path)
    assert [kernel.launches for kernel in look.kernels] == [2, 1, 1]
    assert (look.reason, look.passes) == (None, 12)
    run, raw, details = ncu.calls
    words = " ".join(run)
    assert "--nvtx --nvtx-include paretune/ " in words
    assert "--clock-control none --cache-control none" in words
    assert "--graph-profiling node" in words
    sections = [run[index + 1] for index, word in enumerate(run) if word == "--section"]
    assert set(sections) == {"SpeedOfLight", "MemoryWorkloadAnalysis", "LaunchStats", "Occupancy"}
    program = run[run.index(sys.executable) :]
    module = ["-P", "-m", "paretune.profiling.nsight.child"]
    assert program[1:6] == [*module, str(tmp_path / "artefact"), str(tmp_path / "images.npz")]
    report = run[run.index("--export") + 1]
    for call, page in ((raw, "raw"), (details, "details")):
        assert call == ["--import", report, "--csv", "--page", page, "--print-units", "base"]
    assert not Path(report).parent.exists()  # nothing is left behind
    assert look.files["raw.csv"] == (FILES / "raw.csv").read_text()


DENIED = (
    "echo '==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters'; "
    "echo '==WARNING== No kernels were profiled.'; exit 1"
)
HELD = "echo '==ERROR== Profiling failed because a driver resource was unavailable. Ensure that'; exit 1"
UNKNOWN = "echo '==ERROR== Failed to find metric regex:^made_up'; exit 1"


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (DENIED, PERMISSION),
        (HELD, "pause DCGM with dcgmi profile --pause"),
        (UNKNOWN, "install a newer Nsight Compute (Failed to find metric regex:^made_up)"),
        ("echo '==WARNING== No kernels were profiled.'", NO_KERNELS),
        ("echo '==ERROR== Failed to open /tmp/nsight-compute-lock'; exit 1", "set TMPDIR to a folder of your own"),
        ("echo '==ERROR== LibraryNotLoaded'; exit 1", "ncu cannot use this driver"),
        ("echo 'paretune: RuntimeError: no such device'; exit 1", "process failed: RuntimeError: no such device"),
        ("echo '==ERROR== something new'; echo bye; exit 3", "ncu ended with 3: something new"),
        ("echo bye; exit 3", "ncu ended with 3: bye"),
        ("kill -9 $$", "ncu ended with -9: it said nothing"),
        ("echo the counters: ERR_NVGPUCTRPERM; exit 3", "ncu ended with 3: the counters: ERR_NVGPUCTRPERM"),
    ],
)
def test_what_hinders_it_is_told_in_one_line_with_the_fix(ncu: FakeNcu, tmp_path: Path, run: str, reason: str) -> None:
    ncu.runs(run)
    look = one(tmp_path)
    assert reason in str(look.reason)
    assert "\n" not in str(look.reason)
    assert (look.kernels, set(look.files)) == ((), {"log.txt"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("==ERROR== The report is damaged\n", 'no line begins with "ID": The report is damaged'),
        ('"ID","Kernel Name","gpu__time_duration.sum"\n', NO_KERNELS),
        ('"ID","Kernel Name","gpu__time_duration.sum"\n"","","ns"\n"0","k","n/a"\n', "every counter is n/a"),
        ('"ID","Kernel Name","gpu__time_dura', "cut off"),
    ],
)
def test_a_report_without_figures_is_a_reason(ncu: FakeNcu, tmp_path: Path, text: str, reason: str) -> None:
    (ncu.folder / "raw.csv").write_text(text)
    look = one(tmp_path)
    assert reason in str(look.reason)
    assert look.kernels == ()
    assert look.files["raw.csv"] == text


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_at_the_limit_all_that_was_started_ends(ncu: FakeNcu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsight, "GRACE", 0.1)
    ncu.runs(f"trap '' TERM; sleep 1000 & echo $$ $! > '{tmp_path}/pids'; wait; sleep 1000")
    look = one(tmp_path, limit=2)
    assert "did not end within 2 s" in str(look.reason)
    deadline = time.monotonic() + 60
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    while not all(map(gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(map(gone, pids))


def test_what_nobody_foresaw_is_a_reason_too(ncu: FakeNcu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsight, "launches", lambda _: {}["nothing"])
    assert one(tmp_path).reason == "KeyError: 'nothing'"


@pytest.mark.slow
def test_the_profiled_process_tells_what_failed_in_it(ncu: FakeNcu, tmp_path: Path) -> None:
    ncu.runs('"$@" || { echo "==ERROR== The application returned an error code (1)."; exit 1; }')
    look = one(tmp_path, loader="nowhere_at_all:load")
    assert look.reason == "the profiled process failed: ModuleNotFoundError: No module named 'nowhere_at_all'"


def test_preflight(ncu: FakeNcu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (version(), preflight()) == ("2025.3.1.0", None)
    (ncu.folder / "version").write_text("no such thing\n")
    assert "prints no version" in str(preflight())
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert "no ncu on the PATH" in str(preflight())
    looks = look_at([tmp_path], tmp_path, GPU)
    assert (looks.version, looks.looks) == (None, ())
    assert "install Nsight Compute" in str(looks.reason)


def test_one_warmed_up_inference_stands_alone_in_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("idle"))
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", lambda name: done.append(f"push {name}"))
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: done.append("pop"))

    class Predictor:
        def preprocess(self, image: str) -> tuple[str, None]:
            return image, None

        def core(self, batch: str) -> None:
            done.append(batch)

    nsight_child.run_in_range(Predictor(), "run")
    assert done[-5:] == ["idle", "push paretune", "run", "idle", "pop"]
    assert set(done[:-5]) == {"run"}
    assert len(done[:-5]) >= 3


def test_fifteen_kernels_have_a_row_and_the_rest_one() -> None:
    (launch,) = launches((FILES / "raw.csv").read_text())[:1]
    many = [replace(launch, name=f"k{number:02}" + "x" * 99) for number in range(TOP + 3)]
    (table,) = nsight_tables(["mine"], NsightResults((nsight.NsightResult(by_name(many)),), "2025.3"))
    assert len(table.rows) == TOP + 1
    assert table.rows[-1][:4] == ("the rest (3 kernels)", "3", "6.0000", f"{3 / (TOP + 3):.1%}")
    assert all(len(row) == len(table.head) for row in table.rows)
    assert table.title == "mine: kernels by Nsight Compute 2025.3"
    assert any("never latency" in note for note in table.notes)
    assert any("60 %" in note and "NVIDIA" in note for note in table.notes)
