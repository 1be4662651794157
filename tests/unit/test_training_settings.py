"""What a training's settings mean: schedules and optimizers against torch's own, types, sizes, refusals."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from paretune.cli.main import main
from paretune.core.library_names import OPTIMIZERS
from paretune.core.types import InputSize
from paretune.detectors.yolox.detector import Yolo
from paretune.training import mixed_precision as precision
from paretune.training.mixed_precision import MixedPrecision, computed_in, native_bfloat16
from paretune.training.multi_scale import drawn, multi_scale_unsupported_reason, sizes_around
from paretune.training.optimizer import decay_groups, make_optimizer
from paretune.training.settings import MOMENTUM_IS, Training
from paretune.training.trainer import learning_rate
from tests_support import ROOT

STEPS = 7


def rates(settings: Training) -> list[float]:
    return [learning_rate(step, STEPS, settings) for step in range(settings.epochs * STEPS)]


def torchs(scheduler, **options) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = scheduler(optimizer, **options)
    found = []
    for _ in range(10 * STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("settings", "oracle"),
    [
        (
            Training(epochs=10, lr=0.5, warmup_epochs=0),
            (torch.optim.lr_scheduler.CosineAnnealingLR, {"T_max": 70, "eta_min": 0.005}),
        ),
        (
            Training(epochs=10, lr=0.5, warmup_epochs=0, schedule="linear"),
            (torch.optim.lr_scheduler.LinearLR, {"start_factor": 1.0, "end_factor": 0.01, "total_iters": 70}),
        ),
        (
            Training(epochs=10, lr=0.5, warmup_epochs=0, schedule="step", milestones=[0.5, 0.9], gamma=0.3),
            (torch.optim.lr_scheduler.MultiStepLR, {"milestones": [35, 63], "gamma": 0.3}),
        ),
        (
            Training(epochs=10, lr=0.5, warmup_epochs=0, schedule="constant"),
            (torch.optim.lr_scheduler.ConstantLR, {"factor": 1.0}),
        ),
    ],
    ids=lambda value: getattr(value, "schedule", ""),
)
def test_schedules_are_torchs(settings, oracle):
    scheduler, options = oracle
    assert rates(settings) == pytest.approx(torchs(scheduler, **options), rel=1e-9)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step", "constant"])
def test_every_schedule_rises_first(schedule):
    found = rates(Training(epochs=10, lr=0.5, warmup_epochs=2, schedule=schedule))
    assert found[:14] == pytest.approx([0.5 * n / 15 for n in range(1, 15)])
    assert found[14] == pytest.approx(0.5)
    assert all(later <= earlier for earlier, later in itertools.pairwise(found[14:]))


class Mixed(nn.Module):
    """One layer of every sort."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.layer_norm = nn.LayerNorm([4, 2])
        self.group_norm = nn.GroupNorm(2, 4)
        self.embedding = nn.Embedding(5, 4)
        self.linear = nn.Linear(4, 2)
        self.tied = self.linear
        self.scale = nn.Parameter(torch.ones(()))
        self.attention = nn.MultiheadAttention(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_only_weights_of_convolutions_and_linear_layers_decay():
    network = Mixed()
    names = {id(p): name for name, p in network.named_parameters()}
    decayed, others = ([names[id(p)] for p in group] for group in decay_groups(network))
    assert decayed == ["convolution.weight", "linear.weight", "attention.in_proj_weight", "attention.out_proj.weight"]
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {*decayed, *others} == trained
    assert len(decayed) + len(others) == len(trained)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_get_the_momentum_and_know_it_only_if_torch_does(name):
    network = Mixed()
    group = make_optimizer(network, Training(optimizer=name)).param_groups[0]
    torchs_own = getattr(torch.optim, name)([nn.Parameter(torch.zeros(1))]).defaults
    assert (name in MOMENTUM_IS) == bool({"momentum", "betas"} & torchs_own.keys())
    if name not in MOMENTUM_IS:
        return
    kind = MOMENTUM_IS[name]
    assert group[kind] == (0.9 if name == "SGD" else torchs_own[kind])
    told = make_optimizer(network, Training(optimizer=name, momentum=0.7)).param_groups[0][kind]
    assert told == (0.7 if kind == "momentum" else (0.7, torchs_own["betas"][1]))


class Newest(torch.optim.SGD):
    """An optimizer that a later torch has, and no list of ours."""

    def __init__(self, params, lr, momentum=0.0):
        super().__init__(params, lr=lr, momentum=momentum)


def test_an_optimizer_that_no_list_knows_is_tried(monkeypatch):
    monkeypatch.setattr(torch.optim, "Newest", Newest, raising=False)
    random = torch.random.get_rng_state()
    settings = Training(optimizer="Newest", lr=0.1, momentum=0.5)
    assert torch.equal(torch.random.get_rng_state(), random)
    made = make_optimizer(Mixed(), settings)
    assert isinstance(made, Newest)
    assert made.param_groups[0]["momentum"] == 0.5
    with pytest.raises(ValidationError, match="Newest knows no weight decay"):
        Training(optimizer="Newest", weight_decay=0.1)

    class Broken(Newest):
        def step(self, closure=None):
            raise NotImplementedError("this build has\nno kernel for it")

    monkeypatch.setattr(torch.optim, "Newest", Broken)
    with pytest.raises(ValidationError, match="cannot train a network: this build has no kernel for it"):
        Training(optimizer="Newest")


def test_optimizers_that_are_known_to_train_need_no_torch_to_be_checked():
    code = (
        "import sys; from paretune.training.settings import Training; Training(optimizer='NAdam', momentum=0.8); "
        "assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


def test_bfloat16_is_taken_where_the_flags_of_the_cpu_say_so(tmp_path, monkeypatch):
    def cpu(flags: str) -> Path:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\nbugs : spectre\n")
        return tmp_path / "cpuinfo"

    assert native_bfloat16("cpu", cpu("flags\t\t: fpu avx512f avx512_bf16 sse"))
    assert native_bfloat16("cpu", cpu("flags\t\t: fpu amx_bf16"))
    assert native_bfloat16("cpu", cpu("Features\t: fp asimd bf16"))
    assert not native_bfloat16("cpu", cpu("flags\t\t: fpu avx512f avx2"))
    assert not native_bfloat16("cpu", tmp_path / "none")
    told = {}
    for native in (True, False):
        monkeypatch.setattr(precision, "native_bfloat16", lambda _, native=native: native)
        told[native] = {
            (amp, kind): computed_in(amp, kind) for amp in (False, True, "auto") for kind in ("cpu", "cuda")
        }
    assert {told[native][False, kind] for native in told for kind in ("cpu", "cuda")} == {torch.float32}
    assert {told[True][amp, kind] for amp in (True, "auto") for kind in ("cpu", "cuda")} == {torch.bfloat16}
    assert {told[False][amp, "cuda"] for amp in (True, "auto")} == {torch.float16}
    assert (told[False][True, "cpu"], told[False]["auto", "cpu"]) == (torch.bfloat16, torch.float32)


def test_float16_skips_the_step_that_overflows_and_gives_up_when_no_scale_helps():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scaled = MixedPrecision(torch.float16, "cpu")
    scale = scaled.scaler.get_scale()

    def step(gradient: float) -> bool:
        optimizer.zero_grad()
        scaled.backward((weight * gradient).sum())
        scaled.unscale(optimizer)
        return scaled.step(optimizer, bool(torch.isfinite(weight.grad).all()))

    assert not step(1e38)  # times the scale it is infinite
    assert torch.equal(weight, torch.ones(2))
    assert scaled.scaler.get_scale() == scale / 2
    assert step(1.0)
    torch.testing.assert_close(weight.detach(), torch.full((2,), 0.5))
    saved = scaled.state()
    again = MixedPrecision(torch.float16, "cpu")
    again.load(saved)
    assert again.state() == saved
    while scaled.scaler.get_scale() >= precision.SMALLEST_SCALE:
        assert not step(float("inf"))
    with pytest.raises(FloatingPointError, match="float16"):
        step(float("inf"))
    plain = MixedPrecision(torch.float32, "cpu")
    plain.load(saved)  # was saved where float16 was computed
    assert plain.state() == {}


def test_sizes_of_multi_scale_are_multiples_of_32_in_proportion_and_drawn_alike_everywhere():
    size = InputSize(192, 144)
    assert sizes_around(size, 0) == (size,)
    sizes = sizes_around(size, 0.5)
    assert {s.width for s in sizes} == {96, 128, 160, 192, 224, 256, 288}
    assert size in sizes
    assert all(s.width % 32 == s.height % 32 == 0 for s in sizes if s != size)
    assert all(abs(s.height - s.width * 0.75) <= 16 for s in sizes)
    assert {drawn(sizes, 3, step) for step in range(300)} == set(sizes)
    assert [drawn(sizes, 3, n) for n in range(50)] == [drawn(sizes, 3, n) for n in range(50)]
    assert [drawn(sizes, 3, n) for n in range(50)] != [drawn(sizes, 4, n) for n in range(50)]


def test_a_detector_of_one_size_cannot_be_trained_at_several():
    class OneSize(Yolo):
        def size_unsupported_reason(self, size: InputSize) -> str | None:
            return None if size == InputSize(320, 320) else "the size is 320"

    assert multi_scale_unsupported_reason(OneSize(), InputSize(320, 320), 0) is None
    assert "the size is 320" in multi_scale_unsupported_reason(OneSize(), InputSize(320, 320), 0.3)
    assert multi_scale_unsupported_reason(Yolo(), InputSize(320, 320), 0.3) is None
    assert "no other multiple" in multi_scale_unsupported_reason(Yolo(), InputSize(320, 320), 0.01)


def test_check_takes_losses_and_schedules_by_name(tmp_path, capsys):
    fields = "{box_loss: giou, class_loss: focal, amp: auto, schedule: step, milestones: [0.5, 0.9]}"
    (tmp_path / "job.yaml").write_text(
        f"dataset: shapes\ndetector: yolo\ninput_size: 160\nspace: space.yaml\ntraining: {fields}\n"
    )
    (tmp_path / "space.yaml").write_text("input_size: {choices: [128, 160]}\nruntime: eager\n")
    assert main(["check", str(tmp_path / "job.yaml")]) == 0, capsys.readouterr().err
