"""Comparing with real processes, of predictors whose costs are known."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from paretune.core.target import Target
from paretune.profiling.latency.compare import compare
from paretune.profiling.latency.samples import COLUMNS
from tests_support_profiling import BUSY, fake_artefact, images, quick

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A predictor of 1 + 3 ms, one of 1 + 6 ms, and the first again."""
    folder = tmp_path_factory.mktemp("three")
    folders = [
        fake_artefact(folder / name, postprocess=1, network=cost) for name, cost in (("a", 3), ("b", 6), ("c", 3))
    ]
    return compare(folders, images(), Target(), rounds=3, blocks=6, protocol=quick(), loader=BUSY)


def test_twice_the_work_is_twice_the_time(three):
    network, whole = three.ratio(1, network=True), three.ratio(1)
    assert network.ratio == pytest.approx(2, rel=0.05)
    assert whole.ratio == pytest.approx(7 / 4, rel=0.05)
    assert network.low * 0.98 <= 2 <= network.high * 1.02
    assert (network.verdict, whole.verdict) == ("slower", "slower")
    assert three.ratio(0, 1).verdict == "faster"


def test_equal_artefacts_are_tied(three):
    assert three.ratio(2).verdict == "tied"
    assert three.ratio(2).ratio == pytest.approx(1, rel=0.05)
    assert three.ratio(0).ratio == three.ratio(0).low == 1


def test_artefacts_take_turns(three, tmp_path):
    """By the samples' own clocks: no two blocks overlap, and every order is followed by its reverse."""
    three.save_samples(tmp_path / "samples.npz")
    with np.load(tmp_path / "samples.npz") as saved:
        start, took = saved["start_ns"], saved["latency_ns"]
        places = np.stack([saved["round"], saved["block"], saved["artefact"]], axis=1)
        seen = saved["image"]
        assert set(COLUMNS) < set(saved.files)
    blocks = []
    for place in np.unique(places, axis=0):
        mine = (places == place).all(axis=1)
        assert mine.sum() >= 5
        blocks.append((start[mine].min(), (start + took)[mine].max(), *place))
        assert seen[mine][0] == 5 * place[1] % 3  # all artefacts begin a block with the same image
    blocks.sort()
    assert all(end <= next_start for (_, end, *_), (next_start, *_) in pairwise(blocks))
    order = [artefact for *_, artefact in blocks]
    rows = [order[n : n + 3] for n in range(0, len(order), 3)]
    assert len(rows) == 3 * 6
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert sorted(first) == [0, 1, 2]
        assert second == first[::-1]


def test_what_it_tells_is_plain_data(three):
    told = json.loads(json.dumps(three.to_dict()))
    assert told["mode"] in {"clean", "cpu"}
    assert [artefact["latency"]["verdict"] for artefact in told["artefacts"]] == ["tied", "slower", "tied"]
    assert [artefact["facts"]["threads"] for artefact in told["artefacts"]] == [1, 1, 1]


@pytest.mark.parametrize("wrong", [{"rounds": 1}, {"blocks": 3}, {"blocks": 0}])
def test_too_little_for_an_interval_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="at least 2 rounds"):
        compare([tmp_path], images(), Target(), loader=BUSY, **wrong)
