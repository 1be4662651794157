"""One side of the throughput benchmark: for every line on stdin it trains one epoch, and prints one line of JSON.

The other programs are run from their own folders, as they are; nothing of theirs is part of this project.
"""

from __future__ import annotations

import importlib
import json
import runpy
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

DEVICE = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """What both sides train; told as JSON."""

    detector: str
    """Row of our table."""
    variant: str
    size: str
    """Width x height of our network's input; the others' settings give the same from these photographs."""
    batch: int
    folder: str
    """In COCO's official layout."""
    peers: str
    """Folder of the other programs."""
    amp: bool = False
    """Ours only: bfloat16."""


Answer = Callable[[int], None]
"""To be called after an epoch, with the number of its images; returns when the next one is wanted."""


def ours(work: Work, answer: Answer) -> None:
    """Train by our loop; its photographs are read by one thread beside it."""
    from paretune.core.types import InputSize
    from paretune.data.formats.coco import Coco
    from paretune.detectors import DETECTORS
    from paretune.detectors.base import Detector
    from paretune.training.loop import Epoch, train
    from paretune.training.settings import Training

    kind: type[Detector] = DETECTORS.load(work.detector)
    detector = kind.model_validate({"variant": work.variant})
    data = Coco(root=work.folder).open(Path(work.folder))
    settings = Training.model_validate({
        "epochs": 1000, "batch_size": work.batch, "optimizer": "SGD", "lr": 1e-3, "loader_threads": 1, "amp": work.amp,
        "ema": 0.9998 if work.detector == "yolo" else 0.0, "threads": 1, "device": "cpu",
    })  # fmt: skip
    split = data.splits["train"]

    def on_epoch(_: Epoch) -> None:
        answer(len(split) // work.batch * work.batch)

    network = detector.begin(len(data.classes)).network
    answer(0)
    train(network, detector, split, InputSize.parse(work.size), settings, on_epoch=on_epoch)


def torchvision(work: Work, answer: Answer) -> None:
    """Train by torchvision's recipe for detection: its data set, transforms, loader and ``train_one_epoch``."""
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler
    from torchvision.models import get_model

    sys.path.insert(0, str(Path(work.peers) / "vision" / "references" / "detection"))
    recipe = {name: importlib.import_module(name) for name in ("coco_utils", "presets", "utils", "engine")}
    transforms = recipe["presets"].DetectionPresetTrain(data_augmentation="hflip", use_v2=True)
    dataset = recipe["coco_utils"].get_coco(work.folder, "train", transforms, use_v2=True)
    # one process reads beside the training; it lives on, or these short epochs would pay for its start
    loader = DataLoader(
        dataset,
        batch_sampler=BatchSampler(RandomSampler(dataset), work.batch, drop_last=True),
        num_workers=1,
        persistent_workers=True,
        collate_fn=recipe["utils"].collate_fn,
    )
    name = f"fasterrcnn_{work.variant}" if work.detector == "faster_rcnn" else work.variant
    model = get_model(name, weights=None, weights_backbone=None, num_classes=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    answer(0)
    while True:
        recipe["engine"].train_one_epoch(model, optimizer, loader, DEVICE, epoch=1, print_freq=1000)
        answer(len(loader) * work.batch)


def yolox(work: Work, answer: Answer) -> None:
    """Train by the official YOLOX code: its experiment's data, network, optimizer, schedule and average.

    Its trainer itself demands CUDA: these are the same calls for each step, without the copies to a GPU.
    """
    root = Path(work.peers) / "YOLOX"
    sys.path.insert(0, str(root))
    exp = runpy.run_path(str(root / "exps" / "default" / f"yolox_{work.variant}.py"))["Exp"]()
    exp.data_dir, exp.train_ann, exp.num_classes = work.folder, "instances_train2017.json", 3
    exp.data_num_workers, exp.hsv_prob, exp.warmup_epochs = 1, 0.0, 0
    exp.basic_lr_per_img = 1e-3 / work.batch
    average = importlib.import_module("yolox.utils").ModelEMA
    loader = exp.get_data_loader(work.batch, is_distributed=False, no_aug=True)  # no mosaic: mirrored only
    steps, endless = len(exp.dataset) // work.batch, iter(loader)
    model = exp.get_model().train()
    optimizer, ema = exp.get_optimizer(work.batch), average(model, 0.9998)
    schedule, done = exp.get_lr_scheduler(1e-3, steps), 0
    answer(0)
    while True:
        for _ in range(steps):
            images, targets, *_ = next(endless)
            images, targets = exp.preprocess(images.float(), targets.float(), exp.input_size)
            loss = model(images, targets)["total_loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(model)
            done += 1
            for group in optimizer.param_groups:
                group["lr"] = schedule.update_lr(done)
        answer(steps * work.batch)


SIDES: dict[str, Callable[[Work, Answer], None]] = {"ours": ours, "torchvision": torchvision, "yolox": yolox}


def main() -> None:
    """Train as the driver says; ends when it closes stdin."""
    side, work = SIDES[sys.argv[1]], Work(**json.loads(sys.argv[2]))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    told = sys.stdout
    began = [0.0]

    def answer(images: int) -> None:
        seconds = time.perf_counter() - began[0]
        print(json.dumps({"images": images, "seconds": seconds}), file=told, flush=True)
        if not sys.stdin.readline():
            raise SystemExit
        began[0] = time.perf_counter()

    with redirect_stdout(sys.stderr):  # what the libraries say is no answer
        side(work, answer)


if __name__ == "__main__":
    main()
