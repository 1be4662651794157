"""The images that are measured on: one copy for all processes, none for the one that waits for them."""

from __future__ import annotations

import gc
import re
import resource
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.core.errors import UserError
from paretune.core.types import MEASURED_IMAGES, Image
from paretune.profiling.latency.compare import Comparison
from paretune.profiling.latency.samples import COLUMNS
from paretune.profiling.latency.shared_images import few_images, mapped_images, measuring_images, saved_images
from tests_support_profiling import images

MIB = 2**20


def memory() -> dict[str, int]:
    """Bytes of this process by kind, as the kernel counts them."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {name[:-1]: int(rest[0]) * 1024 for name, *rest in lines if name.startswith(("Rss", "VmRSS"))}


def test_images_are_the_same_when_they_are_mapped() -> None:
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 255, (7, 30, 3), dtype=np.uint8)
    there = [images(1)[0], wide, wide[::-1, ::2], np.asfortranarray(wide), images(1, side=50)[0]]
    with saved_images(there) as file:
        found, counted = mapped_images(file)
        with saved_images(file) as again:
            assert again == file
    assert len(found) == len(there)
    for one, other in zip(found, there, strict=True):
        assert np.array_equal(one, other)
        assert one.ctypes.data % 64 == 0
        with pytest.raises(ValueError, match="read-only"):
            one[0, 0, 0] = 0
    assert counted == -(-counted // 4096) * 4096 >= sum(image.nbytes for image in there)


def resident(address: int) -> int:
    """Return how much of the mapping around an address is in memory."""
    mappings = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())[1:]
    for mapping in mappings:
        low, high = (int(end, 16) for end in mapping.split(maxsplit=1)[0].split("-"))
        if low <= address < high:
            return int(re.search(r"(?m)^Rss: +(\d+) kB", mapping)[1]) * 1024
    raise AssertionError("no such mapping")


def test_a_mapping_takes_no_memory_of_its_own_and_is_there_at_once() -> None:
    """All of it counts as the process's from the start, and none of it is anonymous: pages of the file, shared."""
    with saved_images([np.full((2048, 2048, 3), value, np.uint8) for value in range(4)]) as file:
        before = memory()
        found, counted = mapped_images(file)
        after = memory()
        assert resident(found[0].ctypes.data) == pytest.approx(counted, abs=4 * MIB)
        assert [int(image[-1, -1, -1]) for image in found] == [0, 1, 2, 3]
    assert counted == pytest.approx(48 * MIB, abs=MIB)
    assert after["RssAnon"] - before["RssAnon"] < 4 * MIB


class Split:
    """Images that are made when they are asked for; which of them still live is known."""

    classes = ("cat",)

    def __init__(self, count: int, side: int = 64) -> None:
        self.ids = [str(number) for number in range(count)]
        self.alive: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.most, self._side = 0, side

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Image:
        made = np.full((self._side, self._side, 3), index, np.uint8)
        self.alive[index] = made
        self.most = max(self.most, len(self.alive))
        return made


def test_the_parent_holds_one_image_while_it_writes_and_none_then() -> None:
    split: Any = Split(130)
    shown = measuring_images(split)
    with saved_images(shown) as file:
        gc.collect()
        assert len(split.alive) == 0
        assert split.most <= 2
        assert [int(image[0, 0, 0]) for image in mapped_images(file)[0]] == list(range(MEASURED_IMAGES))
    assert len(shown) == MEASURED_IMAGES
    assert [int(image[0, 0, 0]) for image in (shown[-1], *shown[3:5])] == [99, 3, 4]
    nothing: Any = Split(0)
    assert not measuring_images(nothing)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let files grow to so many bytes and no further, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_is_the_users_mistake_and_says_where_and_how_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    split: Any = Split(8, side=1024)
    told = rf"{tmp_path}: 8 images to measure on need 24 MiB there, .*too large.*; .* set TMPDIR"
    with room_for(10 * MIB), pytest.raises(UserError, match=told), saved_images(measuring_images(split)):
        pytest.fail("there was room")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"nowhere: 3 images .*No such file"), saved_images(images()):
        pytest.fail("there was a folder")


def test_fewer_images_than_usual_are_told() -> None:
    assert few_images({"images": 24}) == ["few_images: measured on 24 images, 100 are usual"]
    assert few_images({"images": 100}) == few_images({}) == []
    rows, place, times = np.zeros((0, len(COLUMNS)), np.int64), np.zeros((0, 3), np.int64), np.ones((2, 2, 2))
    compared = Comparison(rows, place, times, times, "wall", facts=({"images": 1}, {"images": 1}))
    assert compared.notes == ("few_images: measured on 1 image, 100 are usual",)
