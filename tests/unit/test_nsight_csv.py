"""Nsight Compute's CSV: three dialects, numbers as locales write them, and what is broken is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paretune.profiling.nsight.csv_parser import NsightCsvError, errors, parse
from paretune.profiling.nsight.units import ValueReader, base_unit

FILES = Path(__file__).parents[1] / "data" / "nsight"
RAW, DETAILS, METRICS = ((FILES / name).read_text() for name in ("raw.csv", "details.csv", "metrics.csv"))
GEMM = "void gemm<(int)128, 64>(const float *, float *, T1::Params)"
SM = "sm__throughput.avg.pct_of_peak_sustained_elapsed"


def test_raw_is_a_row_for_each_launch_with_units_in_a_row_of_their_own() -> None:
    report = parse(RAW)
    assert [launch.id for launch in report.launches] == [0, 1, 2, 3]
    first, second, _, last = report.launches
    assert (first.name, last.name) == (GEMM, 'copy "odd" kernel(char)')
    assert (first.grid, first.block) == ((1024, 8, 1), (256, 1, 1))
    assert first.metrics["gpu__time_duration.sum"] == (pytest.approx(0.002), "s")
    assert first.metrics["smsp__cycles_elapsed.avg.per_second"] == (1.5e9, "Hz")
    assert first.metrics["dram__bytes.sum.per_second"] == (1_000_000_000_000.5, "byte/s")
    assert first.metrics["launch__sm_count"] == (132.0, "SM")  # three instances that agree
    assert first.metrics["device__attribute_display_name"] == ("An accelerator, 80GB", "")
    assert first.metrics[SM] == (91.5, "%")
    assert second.metrics["dram__bytes_op_read.sum"] == (None, "byte")  # nan
    assert last.metrics["dram__bytes_op_read.sum"] == (None, "byte")  # empty
    assert last.metrics["dram__throughput.avg.pct_of_peak_sustained_elapsed"] == (None, "%")  # n/a
    assert not any("Range" in name or name in {"CC", "Device"} for name in first.metrics)
    assert report.rules == ()


def test_details_are_ragged_rows_of_metrics_and_rows_of_rules() -> None:
    report = parse(DETAILS)
    first, second, third = report.launches
    assert first.metrics["GPU Speed Of Light Throughput: Memory Throughput"] == (40.25, "%")
    assert first.metrics["Memory Workload Analysis: Memory Throughput"] == (1_000_000_000_000.5, "byte/s")
    assert "Memory Throughput" not in first.metrics
    assert second.metrics["Memory Throughput"] == (85.0, "%")  # here it means one thing
    assert third.metrics == {"Duration": (0.001, "s")}
    assert [(rule.launch, rule.name, rule.kind, rule.scope, rule.speedup) for rule in report.rules] == [
        (0, "SOLBottleneck", "INF", "", None),
        (0, "AchievedOccupancy", "OPT", "local", 62.5),
        (0, "MemoryCacheAccessPattern", "OPT", "global", 10.0),
        (1, "SMSkew", "OPT", "global", 90.0),
        (2, "MemoryCacheAccessPattern", "OPT", "global", 12.0),
    ]
    assert report.rules[0].text == 'The kernel is utilizing much of the compute, "well".'
    assert report.rules[2].text.splitlines()[1:] == ["say", "the counters."]


def test_metrics_stand_behind_what_the_program_printed() -> None:
    first, second = parse(METRICS).launches
    assert first.name == "void unnamed>::tiled<32>(const float *, int)"
    assert first.metrics["dram__bytes_op_read.sum"] == (pytest.approx(53.25e6), "byte")
    assert first.metrics["dram__bytes_op_write.sum"] == (3377920.0, "byte")
    assert first.metrics["gpu__time_duration.sum"] == (pytest.approx(0.010195552), "s")
    assert second.metrics["gpu__time_duration.sum"] == (pytest.approx(0.0015), "s")
    assert first.metrics["made_up__metric.sum"] == (None, "")
    assert first.number("made_up__metric.sum", SM) == 88.9
    assert first.number("neither") is None


def swapped(text: str) -> str:
    return text.translate(str.maketrans(",.", ".,"))


@pytest.mark.parametrize("how", [swapped, lambda text: swapped(text).replace(".", "\u202f")])
def test_locales_that_write_a_decimal_comma(how: object) -> None:
    """The same figures written in another way are read as the same."""
    lines = METRICS.splitlines(keepends=True)
    told = []
    for line in lines:
        head, comma, value = line.rpartition(',"')
        told.append(head + comma + how(value) if line.startswith(('"0"', '"1"')) else line)  # type: ignore[operator]
    assert "".join(told) != METRICS
    assert parse("".join(told)).launches == parse(METRICS).launches


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1,234,567", "12.5"], [1234567.0, 12.5]),
        (["1.234.567", "12,5"], [1234567.0, 12.5]),
        (["1,234", "1.234"], [1234.0, 1.234]),  # nothing decides: as in English
        (["1.234,5", "1.234"], [1234.5, 1234.0]),
        (["1'234.5", "1 234"], [1234.5, 1234.0]),
        (["1e+06", "-2.5e-05", ".5"], [1e6, -2.5e-5, 0.5]),
        (["240; 240; 240", "720 (240; 240; 240)", "1; 2"], [240.0, 720.0, None]),
        (["n/a", "", "nan", "N/A", "inf", "1e999"], [None] * 6),
        (["PolicySpread", "8; x", "(a; b)", "--", "1.2.3x", "\u0661\u0662"], None),
    ],
)
def test_values(cells: list[str], values: list[float | None] | None) -> None:
    reader = ValueReader(cells)
    assert [reader.value(cell) for cell in cells] == (cells if values is None else values)


@pytest.mark.parametrize(
    ("unit", "factor", "base"),
    [
        *(("ns", 1e-9, "s"), ("usecond", 1e-6, "s"), ("msecond", 1e-3, "s"), ("second", 1, "s")),
        *(("Kbyte", 1e3, "byte"), ("Gbyte/s", 1e9, "byte/s"), ("Tbyte/second", 1e12, "byte/s")),
        *(("byte/ns", 1e9, "byte/s"), ("hz", 1, "Hz"), ("Ghz", 1e9, "Hz"), ("cycle/nsecond", 1e9, "Hz")),
        *(("cycle/s", 1, "Hz"), ("%", 1, "%"), ("", 1, ""), ("inst/cycle", 1, "inst/cycle"), ("block", 1, "block")),
        ("Kbyte/block", 1e3, "byte/block"),
    ],
)
def test_units(unit: str, factor: float, base: str) -> None:
    found, name = base_unit(unit)
    assert (found, name) == (pytest.approx(factor), base)


def test_what_is_no_csv_is_refused_with_the_errors_of_the_log() -> None:
    log = "==PROF== Connected\n==ERROR== ERR_NVGPUCTRPERM - no permission\n\n==ERROR== An error occurred\nbye\n"
    with pytest.raises(NsightCsvError, match='no line begins with "ID": ERR_NVGPUCTRPERM - no permission; An error'):
        parse(log)
    assert errors(log + log) == ("ERR_NVGPUCTRPERM - no permission", "An error occurred")
    with pytest.raises(NsightCsvError, match="no column 'Kernel Name'"):
        parse('"ID","Value"\n"0","1"\n')


@pytest.mark.parametrize("ending", ['"0","9.0","9', '"0",', '"0","9.0"', '"0","0","9.0","k",', '"0","9.0",12'])
def test_a_last_row_that_was_cut_is_refused(ending: str) -> None:
    text = '"ID","Device","CC","Kernel Name","gpu__time_duration.sum"\n"","","","","ns"\n"0","0","9.0","k","1"\n'
    assert parse(text).launches[0].number("gpu__time_duration.sum") == pytest.approx(1e-9)
    with pytest.raises(NsightCsvError, match="cut off"):
        parse(text + ending)


@pytest.mark.parametrize("text", [RAW, DETAILS, METRICS], ids=["raw", "details", "metrics"])
@settings(max_examples=50)
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused_or_read_rightly(text: str, data: st.DataObject) -> None:
    whole = {launch.id: launch for launch in parse(text).launches}
    cut = text.encode()[: data.draw(st.integers(0, len(text.encode())))].decode(errors="replace")
    try:
        report = parse(cut)
    except NsightCsvError:
        return
    for launch in report.launches:
        values = set(whole[launch.id].metrics.values())
        assert (launch.name, launch.grid) == (whole[launch.id].name, whole[launch.id].grid)
        assert set(launch.metrics.values()) <= values  # never a digit less
    assert set(report.rules) <= set(parse(text).rules)


@given(text=st.text(alphabet=st.sampled_from('"ID,=\n\r 0123.;()n/a\0\ufeffx'), max_size=200), head=st.booleans())
@example(text="", head=True)
@example(text='"0","', head=True)
def test_anything_is_read_or_refused(text: str, head: bool) -> None:
    start = '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value","Rule Name"\n' if head else ""
    try:
        report = parse(start + text)
    except NsightCsvError:
        return
    assert all(launch.id >= 0 for launch in report.launches)
