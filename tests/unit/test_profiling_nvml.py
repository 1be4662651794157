"""Which GPU is looked at, and what MIG leaves unknown."""

from __future__ import annotations

from typing import Any

import pytest

from paretune.profiling.gpu.nvml import opened
from paretune.system.physical_gpu import NoGpuError
from tests_support_nvml import FIRST, NOT_SUPPORTED, SECOND, FakeNvml, gpu, put


def two(**second: Any) -> FakeNvml:
    return FakeNvml(gpu(), gpu(uuid=SECOND, **second))


@pytest.mark.parametrize(
    ("visible", "device", "uuid"),
    [
        (None, None, FIRST),
        (None, 1, SECOND),
        ("1", None, SECOND),
        ("1,0", 1, FIRST),
        (" 1 , 0", 0, SECOND),
        ("0,7,1", 0, FIRST),
        (SECOND, None, SECOND),
        ("GPU-bbbb", 0, SECOND),  # the beginning is enough for CUDA too
        (f"{SECOND},0", 1, FIRST),
        ("0", SECOND, SECOND),  # a UUID that is asked for needs no variable
    ],
)
def test_the_gpu_is_the_one_that_cuda_would_use(
    monkeypatch: Any, visible: str | None, device: int | str | None, uuid: str
) -> None:
    put(monkeypatch, two())
    with opened(device, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) as found:
        assert found.uuid == uuid


@pytest.mark.parametrize(
    ("visible", "device", "message"),
    [
        ("", None, "leaves none of this machine's 2"),
        ("-1", None, "leaves none"),
        ("NoDevFiles", None, "leaves none"),
        ("1", 1, "GPU 1 is asked for, and 1 are visible"),
        ("0,7,1", 1, "GPU 1 is asked for, and 1 are visible"),  # CUDA's list ends before an index that is not there
        (None, 2, "GPU 2 is asked for, and 2 are visible"),
        ("GPU-cccc", None, "0 of this machine's 2 GPUs"),
        ("GPU-", None, "2 of this machine's 2 GPUs"),
        ("MIG-none", None, "MIG-none: NVML: not found"),
    ],
)
def test_no_gpu_is_guessed(monkeypatch: Any, visible: str | None, device: int | None, message: str) -> None:
    fake = put(monkeypatch, two())
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    with pytest.raises(NoGpuError, match=message), opened(device, environ):
        pass
    assert fake.users == 0


def test_numbers_of_unlike_gpus_count_only_in_the_order_of_the_bus(monkeypatch: Any) -> None:
    put(monkeypatch, two(name="Other"))
    with pytest.raises(NoGpuError, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"), opened(1, {}):
        pass
    with opened(1, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) as found:
        assert found.uuid == SECOND
    with opened(None, {"CUDA_VISIBLE_DEVICES": SECOND}) as found:
        assert found.uuid == SECOND


def test_who_computed_is_asked_of_the_driver_afterwards(monkeypatch: Any) -> None:
    told = [(7, 10**6, 90), (8, 2 * 10**6, 4), (9, 3 * 10**6, 5), (7, 4 * 10**6, 60)]
    nonsense = [(2**32 - 1, 5 * 10**6, 80), (0, 5 * 10**6, 80), (10, 5 * 10**6, 4_000_000)]
    fake = put(monkeypatch, FakeNvml(gpu(computed=lambda: [*told, *nonsense], pids=(7, 7, 8), used=3 * 2**20)))
    with opened(None, {}) as found:
        assert found.processes() == {7: 6, 8: 3}  # one has two entries, as on two instances
        assert found.computed(0) == {7, 9}  # 8 did next to nothing
        assert found.computed(3.5) == {7}
        told.clear()
        nonsense.clear()
        assert found.computed(0) == set()
        fake.functions["nvmlDeviceGetProcessUtilization"] = None
        assert found.computed(0) is None
    put(monkeypatch, FakeNvml(gpu(computed=NOT_SUPPORTED)))
    with opened(None, {}) as found:
        assert found.computed(0) is None
        assert found.reasons["computed"] == "NVML: not supported"


def test_an_instance_has_memory_of_its_own_and_no_power(monkeypatch: Any) -> None:
    whole = gpu(mig=[[1, 1]], celsius=61, mib=9000)
    fake = put(monkeypatch, FakeNvml(whole))
    fake.instances["MIG-1"] = {"parent": whole, "uuid": "MIG-1", "mib": 300, "pids": (5,), "used": None}
    with opened(None, {"CUDA_VISIBLE_DEVICES": "MIG-1"}) as found:
        reading = found.read()
        assert (found.mig, found.uuid, found.name) == (True, "MIG-1", "Fake 100")
        assert (reading.memory_mib, reading.celsius, reading.sm_mhz) == (300, 61, 1200)
        assert found.processes() == {5: None}
        assert (reading.watts, reading.utilisation, found.joules()) == (None, None, None)
        assert "cannot be split" in found.reasons["energy_j"]
        assert "cannot be split" in found.reasons["watts"]


def test_a_split_gpu_without_a_named_instance(monkeypatch: Any) -> None:
    put(monkeypatch, FakeNvml(gpu(mig=[[1, 1]])))
    with opened(None, {}) as found:
        reading = found.read()
        assert reading.memory_mib is None
        assert "names no instance" in found.reasons["memory_mib"]
        assert found.joules() is None
    put(monkeypatch, FakeNvml(gpu(mig=[[0, 1]])))
    with opened(None, {}) as found:
        assert not found.mig
        assert found.joules() == 1000


def test_the_newer_name_of_a_function_comes_first(monkeypatch: Any) -> None:
    fake = put(monkeypatch, FakeNvml(gpu(bits=0x4)))
    with opened(None, {}) as found:
        assert found.read().throttled == {"SwPowerCap"}
        fake.functions["nvmlDeviceGetCurrentClocksEventReasons"] = lambda _: 0x8
        assert found.read().throttled == {"HwSlowdown"}


def test_an_old_library_is_told(monkeypatch: Any) -> None:
    fake = put(monkeypatch, FakeNvml(gpu(pids=NOT_SUPPORTED)))
    fake.functions["nvmlDeviceGetTotalEnergyConsumption"] = None
    with opened(None, {}) as found:
        assert found.joules() is None
        assert "nvidia-ml-py" in found.reasons["energy_j"]
        assert found.processes() is None
        assert found.reasons["processes"] == "NVML: not supported"
