"""A whole sweep, from the command line, looked at from outside."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys

import pytest

from paretune.cli.main import main
from paretune.workflows.front_files import NAMES
from tests_support import RELOAD, brute_force_front, runs_of

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def front(swept):
    return json.loads(swept.run("front", "tiny", "--json").stdout)


def test_the_front_is_the_one_a_reader_recomputes_from_mlflow(swept, front):
    """The front is decided among the trials that were compared, which are those with a speed-up."""
    _, parent, children = runs_of(swept)
    points = {
        int(run.data.tags["paretune.trial"]): (run.data.metrics["accuracy/map"], run.data.metrics["latency/ms"])
        for run in children
        if run.info.status == "FINISHED" and "speedup/vs_eager" in run.data.metrics
    }
    printed = {p["trial"]: (p["metrics"]["map"], p["metrics"]["latency_ms"]) for p in front["front"]}
    assert {points[trial] for trial in brute_force_front(points)} == set(printed.values())
    assert list(printed.values()) == sorted(printed.values(), key=lambda p: p[1])
    tagged = {int(r.data.tags["paretune.trial"]) for r in children if r.data.tags["paretune.front"] == "true"}
    assert tagged == set(printed)
    assert parent.info.status == "FINISHED"


def test_the_promised_keys(front):
    assert {"sweep", "target", "baseline", "front"} <= set(front)
    accuracy = {"map", "map50", "precision", "recall", "f1"}
    cost = {"latency_ms", "network_ms", "latency_ms_p50", "latency_ms_p90", "network_ms_p50", "size_mib", "params"}
    cost |= {"flops"}
    told = {"latency_mode", "unstable", "tied_with", "test"}
    for point in [front["baseline"], *front["front"]]:
        assert set(point) == {"trial", "recipe", "metrics", "artefact"} | told
        assert accuracy | cost <= set(point["metrics"])
    assert front["baseline"]["trial"] == 0
    assert front["baseline"]["metrics"]["map"] > 0
    assert next(iter(front["baseline"]["recipe"]["runtime"])) == "eager"


def test_hypervolume_after_each_trial_is_on_the_parent_and_never_falls(swept):
    client, parent, children = runs_of(swept)
    history = sorted(client.get_metric_history(parent.info.run_id, "front/hypervolume"), key=lambda m: m.step)
    # after the trials the comparison, which says the last word on latencies
    assert [m.step for m in history] == [*range(1, len(children) + 1), len(children)]
    values = [m.value for m in history]
    # each step is on the scale of its time: a volume that stays the same differs by the rounding of logarithms
    rounding = 1e-12 * max(values)
    assert all(b >= a - rounding for a, b in itertools.pairwise(values[:-1]))
    # the oracle: a sum over the front's rectangles, from the runs alone
    base = children[0].data.metrics["latency/ms"]
    compared = [r.data.metrics for r in children if "speedup/vs_eager" in r.data.metrics]
    points = [(metrics["accuracy/map"], math.log(base / metrics["latency/ms"])) for metrics in compared]
    area, height = 0.0, 0.0
    for quality, gain in sorted((p for p in points if p[1] > 0), key=lambda p: -p[1]):
        if quality > height:
            area, height = area + gain * (quality - height), quality
    assert values[-1] == pytest.approx(area, rel=1e-9)
    assert values[-1] > 0


def test_trials_are_what_was_asked_for(swept):
    _, _, children = runs_of(swept)
    assert [int(r.data.tags["paretune.trial"]) for r in children] == list(range(6))
    assert [r.data.tags["paretune.origin"] for r in children] == ["baseline"] * 2 + ["enqueued"] * 2 + ["sampled"] * 2
    assert children[0].data.params["runtime"] == "eager"
    assert children[1].data.params["runtime"] == "onnxruntime"
    dense, pruned = children[0].data.metrics["model/params"], children[2].data.metrics["model/params"]
    assert children[2].data.params["prune.ratio"] == "0.5"
    assert pruned < dense / 2
    assert children[3].data.metrics["model/size_mib"] < children[1].data.metrics["model/size_mib"] / 2
    # the unchanged baseline is as accurate on ONNX Runtime as in eager
    assert children[1].data.metrics["accuracy/map"] == pytest.approx(children[0].data.metrics["accuracy/map"], abs=1e-6)


def test_every_run_tells_what_it_won_or_lost_against_the_baseline_and_how_sure_that_is(swept):
    _, _, (base, *others) = runs_of(swept)
    for run in (base, *others):
        for metric in ("accuracy/map", "accuracy/map50"):
            low, middle, high = (run.data.metrics[f"{metric}_delta{end}"] for end in ("_low", "", "_high"))
            assert middle == pytest.approx(run.data.metrics[metric] - base.data.metrics[metric], abs=1e-9)
            assert low <= middle <= high
    assert base.data.metrics["accuracy/map_delta_low"] == base.data.metrics["accuracy/map_delta_high"] == 0
    assert any(
        run.data.metrics["accuracy/map_delta_low"] < run.data.metrics["accuracy/map_delta_high"] for run in others
    )


def test_artefacts_and_pictures_are_in_mlflow(swept):
    client, parent, children = runs_of(swept)
    names = {f.path for f in client.list_artifacts(parent.info.run_id, "front")}
    assert names == {f"front/{name}" for name in NAMES}
    for run in children:
        files = {f.path for f in client.list_artifacts(run.info.run_id, "artefact")}
        assert "artefact/artefact.json" in files
    page = (swept.runs / "tiny" / "front" / "front.html").read_text()
    assert "http://" not in page
    assert "https://" not in page


def test_every_artefact_of_the_front_reloads_elsewhere_with_the_accuracy_it_was_logged_with(swept, front):
    folders = [str(swept.runs / "tiny" / point["artefact"]) for point in front["front"]]
    command = [sys.executable, "-c", RELOAD, str(swept.runs), "tiny", *folders]
    done = subprocess.run(command, env=swept.environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == pytest.approx([p["metrics"]["map"] for p in front["front"]], abs=1e-9)


def test_the_end_says_what_to_know_and_what_to_type(swept):
    said = (swept.folder / "out.txt").read_text()
    for part in ("x eager", "x ONNX RT", "Δ map", "hypervolume", "paretune ui", "6/6 done"):
        assert part in said


def test_nothing_is_written_to_the_home_folder(swept):
    assert sorted(p.relative_to(swept.home).as_posix() for p in swept.home.rglob("*") if p.is_file()) == []


def test_the_token_is_private(swept):
    assert (swept.runs / ".ray-token").stat().st_mode & 0o777 == 0o600


def test_a_finished_sweep_is_shown_again_and_its_name_is_taken(swept):
    again = swept.run("resume", "tiny")
    assert again.returncode == 0
    assert "front of tiny" in again.stdout
    taken = swept.run("sweep", "tiny.yaml")
    assert taken.returncode == 2
    assert "exists already" in taken.stderr
    other = swept.run("front", "tiny", "--target", "t4")
    assert other.returncode == 2
    assert "no target 't4'; it has local" in other.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "dataset={voc: {root: nowhere}}"], "no such folder"),
        (["--set", "training.epocs=3"], "did you mean 'epochs'"),
        (["--set", "search.trials=1"], "greater than or equal to 2"),
        (["--name", "../out"], "sweep name '../out'"),
        (["--set", "output=file/in/the/way"], "cannot be written"),
        (["--set", "training"], "expected a.b=value"),
    ],
)
def test_bad_input_ends_with_2_and_leaves_nothing(place, monkeypatch, capsys, words, message):
    (place.folder / "file").write_text("")
    before = sorted(p.name for p in place.folder.rglob("*"))
    monkeypatch.chdir(place.folder)
    assert main(["sweep", "tiny.yaml", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert sorted(p.name for p in place.folder.rglob("*")) == before


def test_so_does_the_process(place):
    before = sorted(p.name for p in place.folder.rglob("*"))
    done = place.run("sweep", "tiny.yaml", "--set", "training.epocs=3")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "did you mean 'epochs'" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in place.folder.rglob("*")) == before
