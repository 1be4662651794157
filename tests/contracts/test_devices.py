"""The contract of every kind of device in the table, and what a device without a row is."""

from __future__ import annotations

from typing import ClassVar

import pytest

from paretune.core.devices import DEVICES, DeviceKind, device_kind, devices_of_torch
from paretune.core.target import Target
from paretune.profiling.energy.measure import unsupported_reason
from paretune.profiling.gpu.contention import monitor_device
from paretune.runtimes.eager import Eager
from paretune.system.device_lock import locks_of
from paretune.testing import DeviceContract


class TestDevices(DeviceContract):
    @pytest.fixture(params=DEVICES.names)
    def subject(self, request: pytest.FixtureRequest) -> DeviceKind:
        return DEVICES.load(request.param)()


class Xpu(DeviceKind):
    """A GPU that torch calls xpu."""

    name: ClassVar[str] = "xpu"
    by_torch: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.02

    def count(self) -> int:
        return 2


def test_another_kind_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no runtime here runs on 'xpu'"):
        Target(device="xpu")
    monkeypatch.setitem(DEVICES.rows, "xpu", f"{__name__}:Xpu")
    target = Target(device="xpu")
    assert (device_kind("xpu:1").tolerance, locks_of("xpu:1")) == (0.02, ("xpu:1",))
    assert devices_of_torch() == ("cpu", "cuda", "xpu")
    monkeypatch.setattr(Eager, "devices", devices_of_torch())
    assert Eager().unsupported_reason(target) == "torch finds no xpu"


def test_a_device_without_a_row_is_locked_by_its_name_and_watched_by_nothing() -> None:
    kind = device_kind("npu")
    assert (kind.name, kind.count(), kind.locks(0), kind.facts()) == ("npu", None, ("npu",), {})
    target = Target.model_construct(device="npu", threads=1)
    assert unsupported_reason(target) == "the energy of the npu is not measured"  # not that of a GPU beside it
    with monitor_device(target) as watch, watch.around(1) as looks:
        assert looks == []
    assert watch.contention(looks) is None
