"""``paretune profile``: what is said of artefacts is what was measured of them."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field, replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from paretune.cli.main import main
from paretune.core.errors import FailureReason
from paretune.core.target import Target
from paretune.core.types import InputSize, Thresholds
from paretune.profiling.energy.measure import Energy, unavailable
from paretune.profiling.latency.deployment import DeploymentLatency, deployed
from paretune.profiling.latency.deployment_worker import times
from paretune.profiling.latency.result import Latency
from paretune.profiling.latency.samples import MeasurementProtocol
from paretune.profiling.latency.throughput import throughput
from paretune.profiling.nsight import run as nsight
from paretune.profiling.operators import OperatorTimes
from paretune.reports.profile_plots import distributions
from paretune.reports.profile_report import Profile
from paretune.reports.profile_report import profile_page as page
from paretune.reports.profile_tables import operator_tables, stage_table
from paretune.runtimes import eager
from paretune.runtimes.base import Operator
from paretune.storage.artefact import Artefact
from paretune.workflows import profile as profiles
from tests_support_nsight import FILES, FakeNcu
from tests_support_profiles import DEPLOYED, latency, two_artefacts
from tests_support_profiling import DEPLOYABLE, fake_artefact, images, quick


@dataclass(frozen=True)
class Carried:
    """A predictor of two small maps."""

    artefact: Artefact
    detector: Any = field(default_factory=lambda: SimpleNamespace(part_names=("core",)))

    def preprocess(self, image: Any) -> Any:
        return np.zeros((1, 3, 8, 8), np.float32), None

    def core(self, batch: Any) -> Any:
        assert batch.shape == (1, 3, 8, 8)
        return np.ones((1, 4), np.float32), np.ones((1, 2), np.float32)

    def postprocess(self, raw: Any, placement: Any) -> None:
        assert self.artefact.thresholds.score == 0.3


class Cells(HTMLParser):
    """The words of a page's tables, and where it loads things from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [str(value) for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_stages_are_told_with_their_share_and_what_is_unknown_as_such() -> None:
    table = stage_table("mine", latency(70, preprocess=1, network=6, postprocess=3))
    told = {row[0]: row[1:] for row in table.rows}
    assert told["preprocess"] == ("1.000", "1.000", "-", "-", "1.000", "10%")
    assert told["network"] == ("6.000", "6.000", "-", "-", "6.000", "60%")
    assert told["postprocess"] == ("3.000", "3.000", "-", "-", "3.000", "30%")
    assert told["end to end"] == ("10.000", "10.000", "-", "-", "10.000", "100%")
    assert any("latency_ms_p99: not known, 70 samples, 662 are needed" in note for note in table.notes)
    assert not any("latency_ms_p90" in note for note in table.notes)
    noisy = stage_table("mine", latency(70, preprocess=1, network=6, postprocess=3, steady=False))
    assert "no_steady_state" in noisy.notes[-1]


def test_energy_is_told_or_why_it_is_not_known() -> None:
    one = latency(70, preprocess=1, network=6, postprocess=3)
    known = Energy("rapl", mj_image=200.0, mj_image_net=125.0, watts=40.0, idle_watts=15.0, seconds=10.0, images=2000)
    line = "energy 200 mJ an image, 125 mJ above idle: 40 W on average, idle 15 W; rapl, 2000 images in 10.0 s"
    assert line in stage_table("mine", one, known).notes
    assert line in Cells(page([("mine", one)], [stage_table("mine", one, known)])).words
    unknown = unavailable("no counters <here>")
    assert (
        "energy_mj_image: not known, no counters <here>"
        in Cells(page([("mine", one)], [stage_table("mine", one, unknown)])).words
    )
    assert not any("energy" in note for note in stage_table("mine", one).notes)


def test_a_page_needs_nothing_else_and_escapes_names() -> None:
    one = latency(70, preprocess=1, network=6, postprocess=3)
    text = page([("<b>one</b>", one)], [stage_table("<b>one</b>", one)])
    found = Cells(text)
    assert found.sources == []
    assert text.count("<svg") == 1
    assert "<b>one" not in text
    assert any("<b>one</b>" in word for word in found.words)
    assert found.words.count("6.000") == 3  # p50, p90 and CPU time


def test_what_a_deployment_does_besides_stands_under_the_whole() -> None:
    measured = latency(70, preprocess=1, network=6, postprocess=3)
    *stages, decode, postprocess = stage_table("mine", measured, None, DEPLOYED).rows
    assert list(stages) == list(stage_table("mine", measured).rows)
    assert decode == ("besides: decode a JPEG file", "1.500", "1.500", "1.500", "-", "1.500", "-")
    assert postprocess[:2] == ("besides: postprocess, score 0.3", "0.250")
    assert DEPLOYED.metrics() == {"decode_ms_p50": 1.5, "postprocess_ms_p50_deployed": 0.25}


def test_what_is_carried_to_a_gpu_is_a_part_of_the_network() -> None:
    carried = replace(DEPLOYED, transfer=np.full((130, 2), 0.125))
    assert carried.metrics() == {**DEPLOYED.metrics(), "transfer_ms_p50": 0.125}
    assert replace(carried, decode=carried.decode[:5]).reasons.keys() == carried.metrics().keys()
    measured = replace(latency(70, preprocess=1, network=6, postprocess=3), target=Target(device="cuda"))
    table = stage_table("mine", measured, None, carried)
    assert table.rows[-1] == ("in the network: to the GPU and back", "0.125", "0.125", "0.125", "-", "-", "-")
    unknown = replace(carried, transfer="several networks")
    assert unknown.metrics() == DEPLOYED.metrics()
    assert unknown.reasons == {"transfer_ms_p50": "several networks"}
    told = stage_table("mine", measured, None, unknown)
    assert told.rows == table.rows[:-1]
    assert "to the GPU and back: not known, several networks" in told.notes
    assert any(
        note.startswith("peak memory on the GPU: not known, the GPU was not watched; of it by torch's allocator: not")
        for note in table.notes
    )


def test_input_and_maps_are_carried_once_for_each_inference(tmp_path: Path) -> None:
    predictor = Carried(Artefact(tmp_path, "torch", {}, {}, {}, (), InputSize(8, 8), Thresholds(score=0.0)))
    order = {"score": 0.3, "inferences": 5, "cap": 60}
    found = times(predictor, images(2), **order, device="cpu:0")  # to torch another name than that of the host
    assert found.pop("no_transfer") == ""
    assert {stage: len(rows) for stage, rows in found.items()} == {"decode": 5, "postprocess": 5, "transfer": 5}
    assert all(wall > 0 for wall, _ in found["transfer"])
    several = replace(predictor, detector=SimpleNamespace(part_names=("core", "rois")))
    for given, device, why in ((predictor, "cpu", "a CPU"), (several, "cpu:0", "several networks")):
        found = times(given, images(2), **order, device=device)
        assert (len(found["decode"]), found["transfer"]) == (5, [])
        assert why in found["no_transfer"]
    if not torch.cuda.is_available():
        assert "finds no GPU" in times(predictor, images(2), **order, device="cuda")["no_transfer"]


def test_a_slow_artefact_is_deployed_for_as_long_as_the_protocol_says_and_no_longer(tmp_path: Path) -> None:
    """130 inferences of 0.1 s would take 13 s, and the supervisor would end them after 10."""
    folder = fake_artefact(tmp_path / "slow", sleep=100)
    found = deployed(folder, images(), Target(), quick(cap=0.3, limit=10, warmup_cap=0.1), loader=DEPLOYABLE)
    assert 1 <= len(found.decode) == len(found.postprocess) <= 4
    assert np.median(found.postprocess[:, 1]) == pytest.approx(3.5, rel=0.2)  # CPU ms at a score of 0.3
    told = stage_table("mine", latency(70, preprocess=1, network=6, postprocess=3), None, found).rows
    assert [row[1] for row in told[4:]] == ["-", "-"]
    few = f"{len(found.decode)} samples, 11 are needed"
    assert (found.metrics(), found.reasons) == ({}, {"decode_ms_p50": few, "postprocess_ms_p50_deployed": few})


def test_a_page_shows_layers_and_why_there_are_none() -> None:
    layers = tuple(Operator("core", "node", "Conv", name, ms) for name, ms in (("<b>stem</b>", 2.0), ("$x_{", 1.0)))
    counted = [OperatorTimes(layers, 3, 3, 6, 30), "its runtime does not tell"]
    measured = latency(70, preprocess=1, network=6, postprocess=3)
    names = ["mine", "yours"]
    both = [(name, measured) for name in names]
    text = page(both, operator_tables(names, counted))
    found = Cells(text)
    assert 'style="--share: 66.7%"' in text
    assert "<b>stem" not in text
    assert found.words.count("66.7%") == 1
    assert any("operators: not known, its runtime does not tell" in word for word in found.words)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/a/artefact"], ["runs/a/artefact"]),
        (["runs/a/artefact", "runs/b/artefact"], ["a/artefact", "b/artefact"]),
        (["runs/a", "runs/a/b"], ["a", "a/b"]),
        (["/x/a", "a"], None),
    ],
)
def test_artefacts_are_called_by_their_places_in_the_folder_they_share(
    folders: list[str], names: list[str] | None
) -> None:
    made = tuple(Artefact(Path(name), "torch", {}, {}, {}, (), InputSize(32, 32), Thresholds()) for name in folders)
    found = Profile(made, (), (), None, Target(), 1).names
    assert found == (names or ["x/a", str(Path("a").absolute()).lstrip("/")])


def test_names_are_no_formulas_in_the_picture_of_latencies() -> None:
    times = latency(70, preprocess=1, network=6, postprocess=3)
    drawn = distributions(["a$x_{$b", "$x$", "<script>"], [times, times, times])
    assert "a$x_{$b" in drawn
    assert "<script" not in drawn
    assert "http:" not in drawn


@pytest.fixture
def artefacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A small network and a wider one, and a folder with the job of their images."""
    monkeypatch.chdir(tmp_path)
    return two_artefacts(tmp_path)


def test_operators_are_counted_unless_they_are_not_wanted(
    artefacts: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(profiles, "measure", lambda *_: latency(70, preprocess=1, network=6, postprocess=3))
    monkeypatch.setattr(profiles, "deployed", lambda *_: DEPLOYED)
    monkeypatch.setattr(profiles, "count", lambda *given: asked.append(given) or "it does not tell")
    words = ["profile", str(artefacts[0]), "--data", "images.yaml", "--json"]
    assert main(words) == 0
    (found,) = json.loads(capsys.readouterr().out)["artefacts"]
    assert found["reasons"]["operators"] == "it does not tell"
    ((folder, _, _, network, mode),) = asked
    assert (folder, network, mode) == (artefacts[0], pytest.approx(6), "wall")
    assert main([*words, "--no-operators"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["artefacts"]
    assert "operators" not in {**found, **found["reasons"]}
    assert len(asked) == 1


def test_what_a_process_that_died_should_have_told_is_a_failure(
    artefacts: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Other than a runtime that does not tell of its operators, and a machine without a counter of energy."""
    monkeypatch.setattr(profiles, "measure", lambda *_: latency(70, preprocess=1, network=6, postprocess=3))
    monkeypatch.setattr(profiles, "deployed", lambda *_: DEPLOYED)
    monkeypatch.setattr(profiles, "count", lambda *_: FailureReason("killed by SIGKILL"))
    monkeypatch.setattr(profiles, "energy", lambda *_, **__: unavailable("killed by SIGTERM", failed=True))
    assert main(["profile", "small", "--data", "images.yaml", "--json"]) == 1
    said = capsys.readouterr()
    told = ["small: energy: killed by SIGTERM", "small: operators: killed by SIGKILL"]
    assert json.loads(said.out)["failures"] == told
    assert f"not measured: {told[1]}" in said.err


def test_a_deployment_that_cannot_be_timed_costs_no_other_figure(
    artefacts: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def dies(*_: Any) -> DeploymentLatency:
        raise RuntimeError("the measuring process was killed\nby SIGKILL")

    monkeypatch.setattr(profiles, "measure", lambda *_: latency(70, preprocess=1, network=6, postprocess=3))
    monkeypatch.setattr(profiles, "deployed", dies)
    words = ["profile", str(artefacts[0]), "--data", "images.yaml", "--no-operators"]
    main([*words, "--json"])
    (found,) = json.loads(capsys.readouterr().out)["artefacts"]
    assert found["metrics"]["latency_ms_p50"] == 10
    assert found["reasons"]["decode_ms_p50"] == "the measuring process was killed by SIGKILL"
    assert "decode_ms_p50" not in found["metrics"]
    main(words)
    assert "besides: not known, the measuring process was killed by SIGKILL" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(600)
def test_the_smaller_network_is_found_faster(
    artefacts: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    once = MeasurementProtocol(repetitions=1, seconds=0.3)  # a dozen processes that import torch would show no more
    monkeypatch.setattr(profiles, "throughput", partial(throughput, protocol=once))
    monkeypatch.setattr(profiles, "MeasurementProtocol", partial(MeasurementProtocol, spare=0))
    words = ["profile", *map(str, artefacts), "--data", "images.yaml", "--repetitions", "1", "--out", "told", "--json"]
    assert main([*words, "--batch", "1", "2", "--patience", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["artefact"] for entry in found["artefacts"]] == [str(folder) for folder in artefacts]
    for entry in found["artefacts"]:
        told = {**entry["metrics"], **entry["reasons"]}
        assert {"energy_mj_image", "energy_mj_image_net"} <= told.keys()
        assert entry["energy"]["source"] in {"rapl", f"unavailable:{told['energy_mj_image']}"}
        assert 0 < entry["metrics"]["decode_ms_p50"] < 50
        # processes one after the other: others on the machine slow one of them, a wrong unit is a thousandfold
        deployed = entry["metrics"]["postprocess_ms_p50_deployed"]
        assert 1 / 8 < deployed / entry["metrics"]["postprocess_ms_p50"] < 8
        alone, paired = entry["throughput"]
        assert (paired["streams"], paired["batch"]) == (1, 2)
        gain = paired["images_per_second"] / alone["images_per_second"]
        assert 1 / 8 < gain < 8
        assert 1 / 8 < alone["images_per_second"] * entry["metrics"]["latency_ms_p50"] / 1000 < 8
    assert found["images"] == 3
    assert found["comparison"]["artefacts"][1]["network"]["ratio"] > 1
    assert sorted(path.name for path in Path("told").iterdir()) == [
        "profile.html",
        "profile.json",
        "samples-0.npz",
        "samples-1.npz",
        "samples-interleaved.npz",
        "trace-0.json.gz",
        "trace-1.json.gz",
    ]
    for entry in found["artefacts"]:
        told = entry["operators"]
        assert told["operators"][0]["module"] is not None
        assert sum(group["scaled_ms"] for group in told["kinds"]) == pytest.approx(told["network_ms"])
    assert b"paretune module backbone" in gzip.decompress(Path("told/trace-0.json.gz").read_bytes())
    kept = np.load("told/samples-0.npz")["latency_ns"]
    assert float(np.median(kept)) / 1e6 == pytest.approx(found["artefacts"][0]["metrics"]["latency_ms_p50"])
    assert json.loads(Path("told/profile.json").read_text()) == found
    assert main(["profile", str(artefacts[0]), "--data", "images.yaml", "--out", "told"]) == 2
    assert "told exists already" in capsys.readouterr().err


@pytest.fixture
def made_up(artefacts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a profile with Nsight Compute, its latencies made up: no GPU is needed."""

    def measure(folder: Path, file: Path, target: Target, protocol: object) -> Latency:
        return replace(latency(70, preprocess=1, network=6, postprocess=3), target=target)

    monkeypatch.setattr(profiles, "measure", measure)
    monkeypatch.setattr(profiles, "deployed", lambda *_: DEPLOYED)
    monkeypatch.setattr(eager, "gpu_unsupported_reason", lambda _: None)  # a machine with a GPU is made up
    return ["profile", "small", "--data", "images.yaml", "--nsight", "--no-operators", "--out", "told"]


def test_nsight_compute_is_told_on_the_terminal_in_json_and_on_the_page(
    made_up: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    ncu = FakeNcu(tmp_path / "bin", monkeypatch)
    # the images of the profile can be read by what ncu starts
    ncu.runs(
        'for file; do case "$file" in /proc/*) head -c 6 "$file" | tail -c 5;; esac; done; echo a report > "$report"'
    )
    assert main([*made_up, "--device", "cuda"]) == 0
    said = capsys.readouterr()
    assert "Nsight Compute on small (1 of 1)" in said.err
    assert "small: kernels by Nsight Compute 2025.3.1.0" in said.out
    assert "never latency" in said.out
    told = json.loads(Path("told/profile.json").read_text())["nsight"]
    assert (told["version"], told["reason"]) == ("2025.3.1.0", None)
    (look,) = told["artefacts"]
    assert [(kernel["launches"], kernel["bound"]) for kernel in look["kernels"]] == [
        (2, "compute"),
        (1, "memory"),
        (1, "latency"),
    ]
    assert look["kernels"][0]["share"] == pytest.approx(30 / 36)
    assert look["advice"][0]["rule"] == "SMSkew"
    for page_name in ("raw", "details"):
        assert Path(f"told/nsight-0-{page_name}.csv").read_text() == (FILES / f"{page_name}.csv").read_text()
    assert Path("told/nsight-0-log.txt").read_text() == "NUMPY"
    cells = Cells(Path("told/profile.html").read_text())
    assert "83.3%" in cells.words
    assert "relu_kernel(float4 *, int)" in cells.words


def test_what_hinders_nsight_compute_hinders_no_profile(
    made_up: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    ncu = FakeNcu(tmp_path / "bin", monkeypatch)
    ncu.runs("echo '==ERROR== ERR_NVGPUCTRPERM - The user does not have permission'; exit 1")
    assert main([*made_up, "--device", "cuda"]) == 1
    said = capsys.readouterr()
    assert "not known: only administrators may read this GPU's counters" in " ".join(said.out.split())
    assert "not measured: small: Nsight Compute: only administrators" in said.err
    told = json.loads(Path("told/profile.json").read_text())
    assert len(told["failures"]) == 1
    assert told["artefacts"][0]["metrics"]["latency_ms_p50"] == 10
    assert told["nsight"]["artefacts"][0]["kernels"] == []
    assert "NVreg_RestrictProfilingToAdminUsers=0" in told["nsight"]["artefacts"][0]["reason"]
    assert Path("told/nsight-0-log.txt").read_text().startswith("==ERROR== ERR_NVGPUCTRPERM")
    assert "only administrators" in Path("told/profile.html").read_text()


def test_a_cpu_has_nothing_for_nsight_compute(made_up: list[str], capsys: Any) -> None:
    assert main(made_up) == 1
    said = capsys.readouterr()
    assert said.out.count("Nsight Compute looks at GPUs only") == 1
    assert f"not measured: Nsight Compute: {nsight.GPUS_ONLY}" in said.err
    told = json.loads(Path("told/profile.json").read_text())["nsight"]
    assert told == {"version": None, "reason": nsight.GPUS_ONLY, "artefacts": []}
