"""Nsight Compute's two pages of CSV: figures in base units, rules, and damaged files refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paretune.profiling.nsight.csv_parser import NsightCsvError, errors, launches, rules

FILES = Path(__file__).parents[1] / "data" / "nsight"
RAW, DETAILS = ((FILES / name).read_text() for name in ("raw.csv", "details.csv"))
GEMM = "void gemm<(int)128, 64>(const float *, float *, T1::Params)"
SM = "sm__throughput.avg.pct_of_peak_sustained_elapsed"


def test_raw_is_a_row_for_each_launch_with_units_in_a_row_of_their_own() -> None:
    found = launches(RAW)
    assert [launch.id for launch in found] == [0, 1, 2, 3]
    first, second, _, last = found
    assert (first.name, last.name) == (GEMM, 'copy "odd" kernel(char)')
    assert first.metrics["gpu__time_duration.sum"] == pytest.approx(0.002)
    assert first.metrics["smsp__cycles_elapsed.avg.per_second"] == 1.5e9  # with commas between thousands
    assert first.metrics[SM] == 91.5
    assert "device__attribute_display_name" not in first.metrics  # a word
    assert "dram__bytes_op_read.sum" not in second.metrics  # nan
    assert "dram__bytes_op_read.sum" not in last.metrics  # empty
    assert "dram__throughput.avg.pct_of_peak_sustained_elapsed" not in last.metrics  # n/a
    assert not any("Range" in name or name in {"CC", "Device", "ID"} for name in first.metrics)
    assert first.number("made_up__metric.sum", SM) == 91.5
    assert first.number("neither") is None


def test_units_of_older_versions_are_the_same_figures() -> None:
    older = RAW.replace('"ns"', '"nsecond"')
    assert older.count("nsecond") == 1
    assert launches(older) == launches(RAW)


def test_details_have_rows_of_rules_among_shorter_rows_of_metrics() -> None:
    found = rules(DETAILS)
    assert [(rule.launch, rule.name, rule.kind, rule.scope, rule.speedup) for rule in found] == [
        (0, "SOLBottleneck", "INF", "", None),
        (0, "AchievedOccupancy", "OPT", "local", 62.5),
        (0, "MemoryCacheAccessPattern", "OPT", "global", 10.0),
        (1, "SMSkew", "OPT", "global", 90.0),
        (2, "MemoryCacheAccessPattern", "OPT", "global", 12.0),
    ]
    assert found[0].text == 'The kernel is utilizing much of the compute, "well".'
    assert found[2].text.splitlines()[1:] == ["say", "the counters."]


def test_what_is_no_csv_is_refused_with_the_errors_of_the_log() -> None:
    log = "==PROF== Connected\n==ERROR== ERR_NVGPUCTRPERM - no permission\n\n==ERROR== An error occurred\nbye\n"
    with pytest.raises(NsightCsvError, match='no line begins with "ID": ERR_NVGPUCTRPERM - no permission; An error'):
        launches(log)
    assert errors(log + log) == ("ERR_NVGPUCTRPERM - no permission", "An error occurred")
    with pytest.raises(NsightCsvError, match="no column 'Kernel Name'"):
        launches('"ID","Value"\n"0","1"\n')


@pytest.mark.parametrize(("read", "text"), [(launches, RAW), (rules, DETAILS)], ids=["raw", "details"])
@settings(max_examples=50)
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused_or_lacks_its_last_rows(read, text, data) -> None:
    cut = text[: data.draw(st.integers(0, len(text)))]
    try:
        found = read(cut)
    except NsightCsvError:
        return
    assert found == read(text)[: len(found)]  # never a digit less


@given(text=st.text(alphabet=st.sampled_from('"ID,=\n\r 0123.;()n/a\0\ufeffx'), max_size=200), head=st.booleans())
@example(text="", head=True)
@example(text='"0","', head=True)
@example(text="0\n", head=True)
@example(text="0,1,2,3,4,5,6,7,8\n", head=True)
def test_anything_is_read_or_refused(text: str, head: bool) -> None:
    start = '"ID","Kernel Name","a__b","Rule Name","Rule Type","Rule Description","Estimated Speedup"\n' if head else ""
    for read in (launches, rules):
        try:
            found = read(start + text)
        except NsightCsvError:
            continue
        assert all(row.launch >= 0 if hasattr(row, "launch") else row.id >= 0 for row in found)
