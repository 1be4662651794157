"""Energy of an artefact, by counters that are made up: figures are worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.core.target import Target
from paretune.profiling.energy import measure as module
from paretune.profiling.energy import meters, rapl
from paretune.profiling.energy.measure import Energy, MeterReading, energy, unavailable
from paretune.profiling.energy.rapl import joules, packages
from paretune.profiling.latency.samples import COLUMNS, SampleBatch
from tests_support_nvml import NOT_SUPPORTED, FakeNvml, gpu, put, stepping
from tests_support_profiling import BUSY, fake_artefact, images, quick

CUDA = Target(device="cuda")


def zone(root: Path, name: str, kind: str, microjoules: int, wraps_at: int = 262_143_328_850) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{kind}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    return folder


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages as the kernel shows them, with all that must not be added to them."""
    root = tmp_path / "powercap"
    (root / "intel-rapl").mkdir(parents=True)
    zone(root, "intel-rapl:0", "package-0", 5_000_000)
    zone(root, "intel-rapl:0:0", "core", 1_000_000)
    zone(root, "intel-rapl:0:1", "dram", 900_000)
    zone(root, "intel-rapl:1", "package-1", 7_000_000)
    zone(root, "intel-rapl:2", "psys", 99_000_000)
    zone(root, "intel-rapl-mmio:0", "package-0", 5_000_000)
    monkeypatch.setattr(rapl, "POWERCAP", root)
    return root


@pytest.fixture
def _short(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "WINDOW", 0.2)


def test_packages_are_added_up_and_nothing_else(machine: Path) -> None:
    zones = packages(machine)
    assert not isinstance(zones, str)
    assert [one.folder.name for one in zones] == ["intel-rapl:0", "intel-rapl:1"]
    before = [one.microjoules() for one in zones]
    (machine / "intel-rapl:0/energy_uj").write_text("6500000\n")
    (machine / "intel-rapl:1/energy_uj").write_text("7250000\n")
    assert joules(zones, before, [one.microjoules() for one in zones]) == pytest.approx(1.75)


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 999_000, wraps_at=1_000_000)
    zones = packages(tmp_path)
    assert not isinstance(zones, str)
    assert joules(zones, [999_000], [2_000]) == pytest.approx(0.003)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda root: root.rename(root.with_name("gone")), "no counters of the CPU's energy"),
        (lambda root: (root / "intel-rapl:1/energy_uj").unlink(), "intel-rapl:1 cannot be read (No such file"),
        (lambda root: (root / "intel-rapl:0/max_energy_range_uj").write_text("?"), "intel-rapl:0 cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said_and_nothing_is_started(machine: Path, prepare: Any, reason: str) -> None:
    """A process would fail, since there is no such artefact."""
    prepare(machine)
    found = energy(Path("nowhere"), images(), Target())
    assert found.source.startswith("unavailable:")
    assert reason in found.source
    assert found.reasons.keys() == found.figures().keys()
    assert set(found.figures().values()) == {None}
    assert not found.failed


def test_a_counter_that_only_root_may_read(machine: Path, monkeypatch: Any) -> None:
    real = Path.read_text

    def read(self: Path, *given: Any, **named: Any) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *given, **named)

    monkeypatch.setattr(Path, "read_text", read)
    assert packages(machine) == f"{machine}/intel-rapl:0/energy_uj may be read by root only"


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (FakeNvml(), "the driver finds no GPU"),
        (FakeNvml(gpu(milliwatts=NOT_SUPPORTED, millijoules=NOT_SUPPORTED)), "NVML: not supported"),
        (FakeNvml(gpu(mig=[[1, 1]])), "cannot be split"),
    ],
)
def test_a_gpu_without_figures(monkeypatch: Any, fake: FakeNvml, reason: str) -> None:
    put(monkeypatch, fake)
    found = energy(Path("nowhere"), images(), CUDA)  # a process would fail
    assert not found.failed
    assert reason in found.source
    assert fake.users == 0


def test_a_window_shorter_than_the_counters_allow() -> None:
    with pytest.raises(ValueError, match="5 s at least"):
        energy(Path("nowhere"), images(), Target(), seconds=1)


def span(joules: float | None, seconds: float, source: str = "nvml_counter", **more: Any) -> MeterReading:
    return MeterReading(joules=joules, seconds=seconds, source=source, **more)


def test_gross_and_net() -> None:
    """400 J in 10 s for 2,000 images: 200 mJ each; at 15 W idle 150 J of it are not theirs: 125 mJ each."""
    found = module._figures(span(75.0, 5.0), span(400.0, 10.0, celsius=(40, 55)), 2000, ("a: b",))
    assert found.mj_image == pytest.approx(200)
    assert found.mj_image_net == pytest.approx(125)
    assert (found.watts, found.idle_watts) == (40, 15)
    assert found.lines == (
        "energy 200 mJ an image, 125 mJ above idle: 40 W on average, idle 15 W; nvml_counter, 2000 images in 10.0 s",
        "a: b",
    )
    told = found.added_to({"metrics": {"x": 1.0}, "reasons": {"y": "why"}})
    assert told["metrics"] == {"x": 1.0, "energy_mj_image": 200, "energy_mj_image_net": pytest.approx(125)}
    assert told["reasons"] == {"y": "why"}
    assert json.loads(json.dumps(told))["energy"]["celsius"] == [40, 55]


@pytest.mark.parametrize(
    ("idle", "reason"),
    [
        (span(75.0, 5.0, "nvml_power_integrated"), "idle power is not known by nvml_counter: nvml_power_integrated"),
        (span(None, 5.0, reason="lost"), "idle power is not known by nvml_counter: lost"),
        (span(205.0, 5.0), "40 W at work is not above the 41 W of idling"),
    ],
)
def test_net_is_unknown_rather_than_wrong(idle: MeterReading, reason: str) -> None:
    found = module._figures(idle, span(400.0, 10.0), 2000, ())
    assert found.mj_image == pytest.approx(200)
    assert found.mj_image_net is None
    assert found.reasons == {"energy_mj_image_net": reason}


def test_unknown_is_said_once_for_people() -> None:
    assert unavailable("no counter").lines == ("energy_mj_image: not known, no counter",)
    assert Energy("rapl", mj_image=1.0, watts=2.0).lines[0].startswith("energy 1 mJ an image: 2 W on average; rapl")


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.usefixtures("_short")
def test_a_gpu_is_measured_around_a_warmed_up_process(tmp_path: Path, monkeypatch: Any) -> None:
    """At 100 W whatever happens: 100 W idle, 100 W at work, and nothing above idle."""
    folder = fake_artefact(tmp_path / "artefact", network=1)
    pids = [lambda: [int((folder / "pid").read_text())]]
    fake = put(monkeypatch, FakeNvml(gpu(millijoules=stepping(100, 0.01), pids=pids)))
    found = energy(folder, images(), CUDA, seconds=1.0, idle_seconds=0.5, protocol=quick(), loader=BUSY)
    assert fake.users == 0
    assert found.source == "nvml_counter"
    assert found.watts == pytest.approx(100, rel=0.1)
    assert found.idle_watts == pytest.approx(100, rel=0.15)
    assert found.images > 20
    assert found.mj_image == pytest.approx(100 * found.seconds / found.images * 1e3, rel=0.1)
    assert found.celsius == (40, 40)
    assert not any(note.startswith(("contended", "exclusivity")) for note in found.notes)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.usefixtures("_short")
def test_a_cpu_is_measured_by_its_packages(machine: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Package 0 takes a joule between any two readings and wraps; package 1 takes half of one."""
    folder = fake_artefact(tmp_path / "artefact", network=2)
    real, state = meters.RaplMeter._read, {"0": 261_143_328_850, "1": 7_000_000}

    def read(self: Any, span: MeterReading) -> list[int]:
        (machine / "intel-rapl:0/energy_uj").write_text(str(state["0"] % 262_143_328_850))
        (machine / "intel-rapl:1/energy_uj").write_text(str(state["1"]))
        state["0"] += 1_000_000
        state["1"] += 500_000
        return real(self, span)

    monkeypatch.setattr(meters.RaplMeter, "_read", read)
    found = energy(folder, images(), Target(), seconds=0.4, idle_seconds=0.8, protocol=quick(), loader=BUSY)
    assert found.source == "rapl"
    assert found.mj_image == pytest.approx(1500 / found.images)
    assert found.watts == pytest.approx(1.5 / found.seconds)
    assert found.idle_watts is not None
    assert 0 < found.idle_watts <= 1.5 / 0.8
    assert found.mj_image_net == pytest.approx(found.mj_image - found.idle_watts * found.seconds / found.images * 1e3)
    assert not Path(f"/proc/{(folder / 'pid').read_text()}").exists()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.usefixtures("_short")
def test_a_process_that_dies_is_a_reason(machine: Path, tmp_path: Path) -> None:
    folder = fake_artefact(tmp_path / "artefact", network=0.5, dies_after=30)
    found = energy(folder, images(), Target(), idle_seconds=0.0, protocol=quick(), loader=BUSY)
    assert "killed by SIGKILL" in found.source
    assert found.mj_image is None
    assert found.failed
    assert not unavailable("no counter").failed


def test_work_of_others_is_told() -> None:
    rows = np.zeros((10, len(COLUMNS)), np.int64)
    rows[:, COLUMNS.index("latency_cpu_ns")] = 400_000_000
    batch = SampleBatch(rows, {}, 0)
    assert module._others(span(1.0, 5.0, work=4.2), batch) == []
    assert module._others(span(1.0, 5.0, work=6.0), batch) == ["others used 40% of a core"]
    assert module._others(span(1.0, 5.0), batch) == []
