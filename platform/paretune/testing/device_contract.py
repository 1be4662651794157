"""What every kind of device must do."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from paretune.core.devices import DEVICES, DeviceKind, device_kind
from paretune.core.registry import Registry
from paretune.core.target import Target
from paretune.system.device_lock import locks_of, shared_device
from paretune.testing.plugin_contract import PluginContract


class DeviceContract(PluginContract):
    """Tests of one kind of device; those that need one are skipped where there is none."""

    plugin: ClassVar[DeviceKind]
    table: ClassVar[Registry[Any]] = DEVICES
    table_module = "paretune.core.devices"
    table_name = "DEVICES"
    heavy = ("torch", "cv2", "onnx")
    touch = "made.count(), made.locks(0), made.words, made.facts()"

    @pytest.fixture
    def present(self, subject: DeviceKind) -> DeviceKind:
        """Return the kind of device, of which there is one here."""
        if not subject.count():
            pytest.skip(f"{subject.words} is not here")
        return subject

    def test_a_target_may_be_one(self, subject: DeviceKind) -> None:
        """Its name, with a number too, leads to it."""
        assert str(Target(device=subject.name)).startswith(subject.name)
        assert type(device_kind(f"{subject.name}:1")) is type(subject)

    def test_is_counted(self, subject: DeviceKind) -> None:
        """There are none, some, or it is not known."""
        count = subject.count()
        assert count is None or count >= 0

    def test_has_words_for_messages(self, subject: DeviceKind) -> None:
        """They fit in "waiting for …" and "… was not watched"."""
        assert subject.words == subject.words.strip() != ""

    def test_is_locked_by_names_of_its_own(self, subject: DeviceKind) -> None:
        """No other kind has them, and no two processes have different ones."""
        names = subject.locks(0)
        assert names == locks_of(subject.name) == type(subject)().locks(0)
        assert names
        assert all(name == name.strip() != "" for name in names)
        others = {other for row in DEVICES.loadable() if row.name != subject.name for other in row().locks(0)}
        assert not others & set(names)

    def test_is_shared_with_other_work(self, subject: DeviceKind) -> None:
        """A free device is not waited for."""
        with shared_device(subject.name, patience=5) as waited:
            assert waited < 5

    def test_tells_latencies_apart_by_shares(self, subject: DeviceKind) -> None:
        """A tie and a narrow interval are a few percent at most."""
        assert 0 < subject.tolerance < 0.5
        assert 0 < subject.narrow < 0.5

    def test_has_facts_that_stay(self, present: DeviceKind) -> None:
        """Two measurements on one device may be compared."""
        assert present.facts() == present.facts()
        assert all(isinstance(value, str) for value in present.facts().values())

    def test_is_watched_around_a_block(self, present: DeviceKind) -> None:
        """A monitor takes snapshots without a worker too, and says what it saw; without one, nothing watches it."""
        monitor = present.monitor(0)
        if monitor is None:
            return
        with monitor as watch, watch.around() as looks:
            pass
        contention = watch.contention(looks)
        assert contention is None or isinstance(contention.tree(), dict)

    def test_its_energy_is_measured_or_has_a_reason(self, present: DeviceKind) -> None:
        """A meter fills the reading of a block at its end."""
        meter = present.meter(0)
        if isinstance(meter, str):
            assert meter
            return
        with meter.span() as reading:
            pass
        assert reading.seconds > 0
        assert reading.joules is not None or reading.reason
