"""What each operator costs: shares, groups and what is told of them, and the process that counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import FailureReason
from paretune.core.target import Target
from paretune.profiling.operators import INFERENCES, OperatorTimes, count
from paretune.reports.profile_tables import kind_table, operator_table, operator_tables
from paretune.runtimes.base import BETWEEN, Operator
from tests_support_profiling import Busy, fake_artefact, images, quick, spin


def operator(ms: float, module: str | None, kind: str = "Conv", name: str = "node") -> Operator:
    return Operator("core", name, kind, module, ms)


FOUND = OperatorTimes(
    (
        operator(12, "backbone.dark.conv"),
        operator(6, "backbone.dark.act", "Silu"),
        operator(5, "head.0"),
        operator(1, None, "Reorder", "reorder_7"),
    ),
    counted_ms=30,
    counted_ms_p50=28,
    network_ms=7,
    inferences=30,
)


def test_shares_are_of_the_sum_and_scaled_to_what_nothing_counted() -> None:
    assert FOUND.share(FOUND.operators[:1]) == pytest.approx(0.5)
    assert FOUND.scaled_ms(FOUND.operators[:1]) == pytest.approx(3.5)
    assert FOUND.coverage == pytest.approx(24 / 30)
    assert FOUND.inflation == pytest.approx(4)


def test_groups_hold_everything_once() -> None:
    by_module = {group.name: (group.count, group.share) for group in FOUND.by_module(1)}
    assert by_module == {
        "backbone": (2, pytest.approx(18 / 24)),
        "head": (1, pytest.approx(5 / 24)),
        "(not known)": (1, pytest.approx(1 / 24)),
    }
    assert FOUND.by_module(3)[0].name == "backbone.dark.conv"
    assert [(group.name, group.count) for group in FOUND.by_kind()] == [("Conv", 2), ("Silu", 1), ("Reorder", 1)]
    for groups in (FOUND.by_module(2), FOUND.by_kind()):
        assert sum(group.scaled_ms for group in groups) == pytest.approx(FOUND.network_ms)


def test_every_operator_has_one_place_or_none() -> None:
    """Of 24 ms counted, 7 when nothing counts: the host's and the copies' are no module's."""
    found = replace(
        FOUND,
        operators=(
            operator(6, "box"),
            operator(6, None, "cpp_fused_add"),
            operator(4, "rpn", "Memcpy HtoD (Pageable -> Device)"),
            Operator(BETWEEN, "on the host", "host", None, 2),
            Operator(BETWEEN, "aten::topk", "topk", "rpn", 6),
        ),
    )
    per = 7 / 24
    modules, host, transfer = found.places("cuda")
    assert modules == pytest.approx({"box": 6 * per, "rpn": 6 * per})
    assert (host, transfer) == (pytest.approx(2 * per), pytest.approx(4 * per))
    modules, host, _ = found.places("cpu")  # where nobody else could compute it
    assert modules == pytest.approx({"box": 6 * per})
    assert host == pytest.approx(8 * per)


def test_much_slower_or_disturbed_is_said() -> None:
    assert "4.00 times as slow" in FOUND.notes[0]
    assert "80%" in FOUND.notes[0]
    assert FOUND.notes[1].startswith("indicative")
    calm = OperatorTimes(FOUND.operators, 30, 14, 7, 30)
    assert len(calm.notes) == 1
    disturbed = OperatorTimes(FOUND.operators, 30, 14, 7, 30, "others used 50% of a core")
    assert "contended" in disturbed.notes[1]


def test_plain_data_holds_all_but_the_trace() -> None:
    told = json.loads(json.dumps(OperatorTimes(FOUND.operators, 30, 28, 7, 30, trace=b"x").to_dict()))
    assert told["operators"][3] == {
        "part": "core",
        "name": "reorder_7",
        "kind": "Reorder",
        "module": None,
        "ms": 1,
        "share": pytest.approx(1 / 24),
        "scaled_ms": pytest.approx(7 / 24),
    }
    assert told["indicative"] is True
    assert told["modules"][0]["name"] == "backbone.dark"


def test_a_table_names_ten_and_adds_up_the_others() -> None:
    many = OperatorTimes(tuple(operator(20 - i, f"m.{i}", f"k{i}") for i in range(15)), 200, 200, 195, 30)
    table = operator_table("mine", many)
    assert [row[0] for row in table.rows] == [*(f"m.{i}" for i in range(10)), "5 others"]
    assert table.rows[0] == ("m.0", "k0", "20.000", "10.3%")
    assert table.rows[-1][2:] == ("40.000", "20.5%")
    assert kind_table("mine", many).rows[-1] == ("5 other kinds", "5", "40.000", "20.5%")
    assert len(operator_table("mine", FOUND).rows) == 4
    assert operator_table("mine", FOUND).rows[3][0] == "reorder_7"


def test_why_nothing_was_counted_stands_in_place_of_the_tables() -> None:
    (told,) = operator_tables(["mine"], ["tensorrt cannot"])
    assert told.notes == ("operators: not known, tensorrt cannot",)
    assert operator_tables(["mine"], []) == []


class CountedBusy(Busy):
    """A predictor whose core is one that counts."""

    def __init__(self, folder: Path, target: Target) -> None:
        super().__init__(folder, target)
        self.core = Core(super().core)


class Core:
    def __init__(self, run: Callable[[Any], Any]) -> None:
        self.run, self.calls = run, 0

    def __call__(self, batch: Any) -> Any:
        self.calls += 1
        spin(1)
        return self.run(batch)

    def reset(self) -> None:
        self.calls = 0

    def operators(self) -> list[Operator]:
        return [operator(0.5, "a"), operator(0.25, f"called {self.calls} times")]

    def trace(self, file: Path) -> bool:
        file.write_text("when")
        return True


def load_counting(folder: Path, target: Target) -> CountedBusy:
    return CountedBusy(folder, target)


def load_refused(folder: Path, target: Target) -> CountedBusy:
    raise NotImplementedError("the profiler is\nnot known here")


COUNTING, REFUSED = f"{__name__}:load_counting", f"{__name__}:load_refused"


@pytest.mark.slow
def test_a_process_counts_after_a_lead_in(tmp_path: Path) -> None:
    found = count(fake_artefact(tmp_path / "a"), images(), Target(), 0.5, "cpu", quick(), loader=COUNTING)
    assert isinstance(found, OperatorTimes)
    assert [one.module for one in found.operators] == ["a", f"called {INFERENCES} times"]
    assert found.inferences == INFERENCES
    assert found.trace == b"when"
    assert found.counted_ms_p50 >= 1  # CPU time of each call
    assert found.inflation >= 2


@pytest.mark.slow
@pytest.mark.parametrize("costs", [{"dies_after": 5}, {"raises_after": 5}])
def test_a_process_that_fails_is_a_reason_not_an_error(costs: dict[str, int], tmp_path: Path) -> None:
    found = count(fake_artefact(tmp_path / "a", **costs), images(), Target(), 0.5, "wall", quick(), loader=COUNTING)
    assert isinstance(found, FailureReason)
    assert "the measuring process" in found
    assert "\n" not in found


@pytest.mark.slow
def test_a_runtime_that_does_not_count_has_not_failed(tmp_path: Path) -> None:
    found = count(fake_artefact(tmp_path / "a"), images(), Target(), 0.5, "wall", quick(), loader=REFUSED)
    assert isinstance(found, str)
    assert not isinstance(found, FailureReason)
    assert found == "the profiler is not known here"
