"""Calibration images: every class is among them, the rarest first, the same for the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from paretune.compression.quantize.calibration import stratified
from paretune.core.types import Annotations
from tests_support_compression import Pictures


@dataclass(frozen=True)
class Labelled(Pictures):
    """Images of these labels; a negative one is to be ignored."""

    labels: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def annotations(self, index: int) -> Annotations:
        labels = np.array(self.labels[index], np.int64)
        return Annotations(np.zeros((len(labels), 4), np.float32), np.abs(labels), labels < 0)


def drawn_anew(seed: int) -> Labelled:
    """Forty images, classes 1 to 5, of which each is a third as frequent as the one before."""
    random = np.random.default_rng(seed)
    labels = []
    for _ in range(40):
        some = tuple(label for label in range(1, 6) if random.random() < 0.7 / 3 ** (label - 1))
        labels.append(some + ((-6,) if random.random() < 0.5 else ()))
    return Labelled((), labels=tuple(labels))


def by_hand(split: Labelled, count: int, seed: int) -> list[int]:
    """The same, written out: in turn, each class names its first image in the drawn order that is not taken yet."""
    order = np.random.default_rng(seed).permutation(len(split)).tolist()
    holds = {label: [i for i in order if label in split.labels[i]] for label in range(1, 6)}
    classes = sorted((label for label in holds if holds[label]), key=lambda label: len(holds[label]))
    taken: list[int] = []
    while any(set(holds[label]) - set(taken) for label in classes):
        for label in classes:
            left = [index for index in holds[label] if index not in taken]
            taken += left[:1]
    taken += [index for index in order if index not in taken]
    return taken[:count]


@pytest.mark.parametrize("data", range(12))
@pytest.mark.parametrize("count", [1, 3, 5, 17, 40, 99])
def test_images_are_those_of_a_plain_round_robin(data: int, count: int) -> None:
    split = drawn_anew(data)
    chosen = stratified(split, count, seed=data + 1)
    assert chosen == by_hand(split, count, data + 1)
    assert len(set(chosen)) == len(chosen) == min(count, 40)


@pytest.mark.parametrize("data", range(12))
def test_no_class_is_missed_from_as_many_images_as_classes_on(data: int) -> None:
    split = drawn_anew(data)
    everything = {label for labels in split.labels for label in labels if label > 0}
    for count in range(len(everything), 12):
        seen = {label for index in stratified(split, count, seed=3) for label in split.labels[index]}
        assert everything <= seen


def test_the_seed_decides() -> None:
    split = drawn_anew(0)
    assert stratified(split, 10, seed=1) == stratified(split, 10, seed=1) != stratified(split, 10, seed=2)


def test_a_split_without_objects_is_drawn_from_all_the_same() -> None:
    assert sorted(stratified(Labelled((), labels=((), (-6,), ())), 8, seed=0)) == [0, 1, 2]
