"""The accuracy guard: the first rung that loses little enough, judged on the validation split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paretune.compression.guard import Rung, climb
from paretune.compression.quantize import Quantize
from paretune.errors import UserError
from paretune.structures import Annotations, Data
from tests_support_compression import CLASSES
from tests_support_quantize import SMALL, Labelled, guarded_context, photographs, sure_file


@pytest.mark.parametrize("seed", range(40))
def test_the_first_rung_within_the_limit_is_taken_and_none_after_it_is_made(seed: int) -> None:
    random = np.random.default_rng(seed)
    maps = {name: float(random.uniform(0.5, 0.6)) for name in "abcde"}
    limit = float(random.uniform(0, 0.06))
    made: list[str] = []

    def rung(name: str) -> Rung:
        return Rung(name, lambda: made.append(name) or {"core": Path(name)})

    def further(best: Rung, files: dict[str, Path]) -> list[Rung]:
        assert best.label == files["core"].name == max("abc", key=maps.get)
        return [rung("d"), rung("e")]

    outcome = climb(
        [rung(name) for name in "abc"],
        further,
        lambda files: 0.6 if files is None else maps[files["core"].name],
        limit,
        lambda _: None,
    )
    good = [name for name in "abcde" if 0.6 - maps[name] <= limit]
    assert made == list("abcde" if not good else "abcde"[: "abcde".index(good[0]) + 1])
    (note,) = outcome.notes
    if not good:
        assert outcome.files is None
        best = max(maps, key=maps.get)
        assert note.startswith(f"quantize changed nothing: {best} loses least of map on val, {0.6 - maps[best]:.4f}")
        return
    assert outcome.files == {"core": Path(good[0])}
    assert note.startswith(f"quantize: {good[0]} loses {0.6 - maps[good[0]]:.4f} of map on val")
    assert (f"plain quantization (a) loses {0.6 - maps['a']:.4f}" in note) == (good[0] != "a")
