"""What confirming chooses and claims, with losses and latencies that are handed in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import main
from paretune.results.confirmation import read_confirmation
from paretune.results.confirmation_text import confirmation_text
from paretune.results.sweep_folder import Sweep
from paretune.workflows.confirm import ConfirmationTools, confirm, confirmation_request, cut_of, settle_cut
from tests_support_records import comparison, fake_records, finished_sweep, prune, recipe

JOB = {
    "dataset": {"shapes": {"train": 8, "val": 4, "size": "64x48"}},
    "detector": {"yolo": {"variant": "nano"}},
    "input_size": 160,
    "space": "space.yaml",
    "constraints": {"map": {"max_drop": 0.02}},
    "search": {"trials": 14, "seed": 3},
}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A finished sweep of fourteen trials."""
    made = finished_sweep(tmp_path, JOB)
    made.comparison.write_text(json.dumps(comparison()))
    return made


class Handed:
    """Losses that grow with the cut and differ between seeds; a comparison of invented latencies."""

    def __init__(self, slope: float = 0.05, on_test: float = 0.0) -> None:
        self.slope, self.on_test = slope, on_test
        self.made: list[Path] = []
        self.compared: list[Mapping[int, str]] = []

    @property
    def tools(self) -> ConfirmationTools:
        return ConfirmationTools(self.repeat, self.compare)

    def repeat(self, recipe: Mapping[str, Any], seed: int, folder: Path) -> float:
        self.made.append(folder)
        return self.slope * (cut_of(recipe) or 0) + 0.001 * (seed - 5)

    def compare(self, artefacts: Mapping[int, str]) -> dict[str, Any]:
        self.compared.append(artefacts)
        lost = self.on_test
        ends = {"map_delta_low": -lost - 0.01, "map_delta": -lost, "map_delta_high": -lost + 0.01}
        gain = {"speedup": 3.0, "low": 2.9, "high": 3.1, "verdict": "faster", "network_speedup": 3.5}
        return {
            "trials": {str(number): {"eager": gain, "onnxruntime": gain} for number in artefacts},
            "test": {str(number): {"metrics": ends} for number in artefacts},
            "notes": ["calm"],
        }


def test_a_recipe_that_holds_is_left_as_it_is(sweep: Sweep) -> None:
    handed = Handed(slope=0.02, on_test=0.013)
    asked = confirmation_request(sweep, trial=4)
    assert (asked.seeds, asked.max_drop) == ((4, 5, 6), 0.02)  # not the trial's own seed; the job's constraint
    found = confirm(sweep, asked, tools=handed.tools)
    assert [one.recipe for one in found.tried] == [fake_records()[4].recipe]
    assert found.kept.mean_lost == pytest.approx(0.01)
    assert found.kept.best_seed == 4
    assert found.claimed == ("test", pytest.approx(0.013))
    assert found.holds
    text = confirmation_text(found)
    assert "mean loss of map on test 0.0130, over 3 seeds: --max-drop 0.02 holds" in text
    assert "0.0130 [0.0030, 0.0230]" in text
    assert "3.00 [2.90, 3.10]" in text


def test_what_was_confirmed_is_read_and_not_done_again(sweep: Sweep) -> None:
    handed = Handed()
    asked = confirmation_request(sweep, trial=4, seeds=2)
    first = confirm(sweep, asked, tools=handed.tools)
    done = len(handed.made)
    assert confirm(sweep, asked, tools=handed.tools) == first == read_confirmation(sweep)
    assert len(handed.made) == done
    confirm(sweep, confirmation_request(sweep, trial=4, seeds=3), tools=handed.tools)
    assert len(handed.made) > done


def test_a_cut_is_eased_until_the_mean_holds_and_half_a_step_is_tried_back(sweep: Sweep) -> None:
    handed = Handed(slope=0.05, on_test=0.03)
    found = confirm(sweep, confirmation_request(sweep, trial=4), tools=handed.tools)
    assert [cut_of(one.recipe) for one in found.tried] == [0.5, 0.45, 0.4, 0.425]
    assert cut_of(found.kept.recipe) == 0.4
    assert found.claimed == ("test", pytest.approx(0.03))
    assert not found.holds  # chosen on val, judged on test
    assert list(handed.compared[0].values()) == [found.kept.artefact(seed) for seed in (4, 5, 6)]
    assert "is exceeded" in confirmation_text(found)


@pytest.mark.parametrize(
    ("allowed", "cuts", "kept"),
    [
        (0.5, [0.5], 0.5),
        (0.43, [0.5, 0.45, 0.4, 0.425], 0.425),
        (0.01, [0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05], 0.05),
    ],
)
def test_each_recipe_is_tried_once(allowed: float, cuts: list[float], kept: float) -> None:
    tried: list[float | None] = []

    def lost(given: Mapping[str, Any]) -> float:
        tried.append(cut_of(given))
        return cut_of(given) or 0

    assert cut_of(settle_cut(recipe(160, prune(0.5)), lost, allowed)) == kept
    assert tried == cuts


def test_what_is_not_pruned_cannot_be_eased() -> None:
    given = recipe(160)
    assert settle_cut(given, lambda _: 1.0, 0.01) == given


def test_without_a_test_split_the_claim_is_made_on_val(sweep: Sweep) -> None:
    handed = Handed(slope=0.02)
    compare = lambda made: {**handed.compare(made), "test": None, "no_test": "the data has no split test"}  # noqa: E731
    found = confirm(sweep, confirmation_request(sweep, trial=4), tools=ConfirmationTools(handed.repeat, compare))
    assert found.claimed == ("val", pytest.approx(0.01))
    assert "claimed on val, on which it was chosen too: the data has no split test" in confirmation_text(found)


def test_a_comparison_that_failed_is_made_again(sweep: Sweep) -> None:
    handed, asked = Handed(slope=0.02), confirmation_request(sweep, trial=4)
    broken = ConfirmationTools(handed.repeat, lambda _: {"reason": "a process died", "trials": {}})
    assert "speed-ups are not known: a process died" in confirmation_text(confirm(sweep, asked, tools=broken))
    assert confirm(sweep, asked, tools=handed.tools).claimed[0] == "test"


def test_a_sweep_without_a_finished_front_is_refused_in_a_line(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    (sweep.folder / "finished").unlink()
    assert main(["confirm", "demo", "--runs", str(sweep.runs)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "sweep 'demo' has no finished front yet; to go on: paretune resume demo" in line


def test_the_front_s_best_is_taken_where_no_trial_is_named(sweep: Sweep) -> None:
    trial = confirmation_request(sweep).trial
    record = fake_records()[trial]
    assert record.metrics["map"] >= 0.512 - 0.02
    faster = [r for r in fake_records() if r.metrics.get("latency_ms", 99) < record.metrics["latency_ms"]]
    assert all(r.metrics["map"] < 0.512 - 0.02 for r in faster)
