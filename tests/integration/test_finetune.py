"""Fine-tuning: the baseline's training with a few words changed, and able to go on after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paretune.compression.base import Context
from paretune.compression.finetune import Finetune
from paretune.compression.prune.step import Prune
from paretune.training import trainer as stepping
from paretune.training.loop import train
from tests_support_compression import SETTINGS, SIZE, context, model, outputs, same_state, state


class KilledError(Exception):
    """Stands for the end of the process."""


def killed_after(number: int, workdir: Path) -> Context:
    def progress(line: str) -> None:
        if f"epoch {number + 1}/" in line:
            raise KilledError

    return context(workdir, progress=progress)


@pytest.mark.slow
def test_is_the_training_loop_with_these_epochs_and_this_learning_rate(tmp_path: Path) -> None:
    tuned = Finetune(epochs=2, lr_factor=0.25).apply(model(), context(tmp_path, seed=3))
    used = context(tmp_path)
    settings = SETTINGS.model_copy(update={"epochs": 2, "lr": 0.25 * SETTINGS.lr, "seed": 3})
    same = train(model().network.train(), used.detector, used.data.splits["train"], SIZE, settings)
    assert same_state(state(tuned.network), state(same.network))
    assert not same_state(state(tuned.network), state(model().network))
    assert tuned.history == ("finetune",)
    assert (tuned.params, tuned.flops) == (model().params, model().flops)
    assert not tuned.network.training


def test_learning_rate_is_half_of_the_baselines_unless_said(tmp_path: Path) -> None:
    states = [
        state(Finetune(epochs=1, **more).apply(model(), context(tmp_path / str(number))).network)
        for number, more in enumerate(({}, {"lr_factor": 0.5}, {"lr_factor": 1}))
    ]
    assert same_state(states[0], states[1])
    assert not same_state(states[0], states[2])


def test_the_given_network_and_the_random_state_stay_as_they_were(tmp_path: Path) -> None:
    given = model()
    before, random = state(given.network), torch.get_rng_state()
    Finetune(epochs=1).apply(given, context(tmp_path))
    assert same_state(before, state(given.network))
    assert not given.network.training
    assert torch.equal(random, torch.get_rng_state())


def test_no_epochs_change_nothing_and_say_so(tmp_path: Path) -> None:
    given = model()
    same = Finetune(epochs=0).apply(given, context(tmp_path))
    assert same.notes == ("finetune changed nothing: 0 epochs",)
    assert all(torch.equal(a, b) for a, b in zip(outputs(given.network), outputs(same.network), strict=True))
    assert list(tmp_path.iterdir()) == []


def test_goes_on_where_it_was_killed_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Finetune(epochs=3)
    whole = step.apply(model(), context(tmp_path / "whole"))
    with pytest.raises(KilledError):
        step.apply(model(), killed_after(1, tmp_path / "killed"))
    done: list[int] = []
    epoch = stepping.Trainer.epoch
    monkeypatch.setattr(
        stepping.Trainer, "epoch", lambda run, number, *rest: done.append(number) or epoch(run, number, *rest)
    )
    resumed = step.apply(model(), context(tmp_path / "killed"))
    assert done == [1, 2]
    assert same_state(state(whole.network), state(resumed.network))


def test_another_network_in_the_same_folder_starts_anew(tmp_path: Path) -> None:
    step = Finetune(epochs=1)
    alone = step.apply(model(seed=1), context(tmp_path / "alone"))
    step.apply(model(seed=0), context(tmp_path / "both"))
    second = step.apply(model(seed=1), context(tmp_path / "both"))
    assert same_state(state(alone.network), state(second.network))


def test_a_pruned_network_is_tuned_as_it_is(tmp_path: Path) -> None:
    pruned = Prune(ratio=0.5).apply(model(), context(tmp_path))
    lines: list[str] = []
    tuned = Finetune(epochs=2).apply(pruned, context(tmp_path, progress=lines.append))
    assert {name: t.shape for name, t in tuned.network.state_dict().items()} == {
        name: t.shape for name, t in pruned.network.state_dict().items()
    }
    assert tuned.history == ("prune", "finetune")
    assert [line.split(":")[0] for line in lines] == ["finetune epoch 1/2", "finetune epoch 2/2"]
