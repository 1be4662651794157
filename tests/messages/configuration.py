"""Messages of jobs, spaces, recipes and the fields of plug-ins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

from messages.provoke import case, cases, refused, write
from paretune.compression.prune.step import Prune
from paretune.config.job import Job
from paretune.config.plan import checked_space, read_plan
from paretune.config.recipe import Recipe
from paretune.core.metrics import metric_of
from paretune.core.target import Target
from paretune.core.yaml_document import read_yaml
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.yolox.detector import Yolo
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.search.space_reader import read_space
from tests_support import SMALL_JOB as JOB
from tests_support import SMALL_SPACE as SPACE


def changed(text: str, old: str, new: str) -> str:
    assert old in text, old
    return text.replace(old, new)


def job(old: str = "", new: str = "", **overrides: Any) -> None:
    write(job_yaml=changed(JOB, old, new) if old else JOB, space_yaml=SPACE)
    read_plan(Path("job.yaml"), {name.replace("__", "."): value for name, value in overrides.items()})


def space(old: str, new: str) -> None:
    write(job_yaml=JOB, space_yaml=changed(SPACE, old, new))
    read_plan(Path("job.yaml"))


cases(
    "job",
    job,
    {
        "a value of another plug-in": ("variant: nano", "variant: nan"),
        "a misspelt field": ("search: {trials: 4}", "serch: {trials: 4}"),
        "a misspelt plug-in": ("shapes", "shape"),
        "half a trial": ("trials: 4", "trials: 4.5"),
        "no space": ("space: space.yaml", "space: none.yaml"),
        "an unknown objective": ("search", "objectives: {mop: maximize, map: maximize}\nsearch"),
        "one objective": ("search", "objectives: {map: maximize}\nsearch"),
        "a bound of both kinds": ("search", "constraints: {map: {max: 1, min: 0}}\nsearch"),
        "a drop of a cost": ("search", "constraints: {latency_ms_p50: {max_drop: 1}}\nsearch"),
        "a password in an address": ("search", "tracking: {uri: 'http://me:hunter22@host'}\nsearch"),
        "energy that is not taken": (
            "search",
            "objectives: {map: maximize, energy_mj_image: minimize}\nmeasuring: {energy_seconds: 0}\nsearch",
        ),
        "too short for energy": ("search", "measuring: {energy_seconds: 3}\nsearch"),
        "memory of a GPU on a CPU": ("search", "constraints: {device_mib_peak: {max: 500}}\nsearch"),
        "half a size": ("input_size: 160", "input_size: 16x"),
        "an interval as objective": ("search", "objectives: {map_delta_low: maximize, map: maximize}\nsearch"),
        "one process for each trial": ("search", "measuring: {repetitions: 1}\nsearch"),
        "one round": ("search", "measuring: {rounds: 1}\nsearch"),
        "a first recipe of a size that the detector lacks": (
            "trials: 4",
            "trials: 4, first: [{input_size: 63, runtime: eager}]",
        ),
        "a folder that is not there": ("{shapes: {}}", "{voc: {root: not/here}}"),
        "a variable that is not set": ("{shapes: {}}", "{voc: {root: $NOT_SET_ANYWHERE/here}}"),
        "no boxes are kept": ("search", "thresholds: {detections: 0}\nsearch"),
        "more boxes than regions": (
            "{yolo: {variant: nano}}",
            "{faster_rcnn: {proposals: 300}}\nthresholds: {detections: 400}",
        ),
        "an unknown scheduler": ("trials: 4", "scheduler: nothin"),
        "a size to be chosen without a training that chooses": ("160", "auto"),
        "several mistakes": ("{shapes: {}}", "{shapes: {sed: 1}}\nserch: {}"),
    },
)
cases(
    "space",
    space,
    {
        "a ratio beyond 1": ("0.5", "1.3"),
        "a misspelt field": ("ratio", "ration"),
        "a misspelt runtime": ("onnxruntime", "onnxruntim"),
        "a size that the detector lacks": ("[128, 160]", "[128, 161]"),
        "pruning after quantizing": ("- prune", "- quantize: {}\n  - prune"),
        "pruning after exporting": ("- prune", "- export\n  - prune"),
        "a scheme for torch": ("runtime: onnxruntime", "  - quantize: {scheme: fp16}\nruntime: eager"),
        "layers kept in float for torch": (
            "runtime: onnxruntime",
            "  - quantize: {images: 8,\n      keep_float: 2}\nruntime: compiled",
        ),
        "weights of 8 bits for torch": ("runtime: onnxruntime", "  - quantize: {weight_bits: 8}\nruntime: eager"),
        "a guard for torch": (
            "runtime: onnxruntime",
            "  - quantize: {max_drop: {choices: [null, 0.01]}}\nruntime: {choices: [onnxruntime, eager]}",
        ),
    },
)


def on_a_gpu(runtime: Any, scheme: str) -> None:
    text = f"{{input_size: 160, steps: [{{quantize: {{scheme: {scheme}}}}}], runtime: {json.dumps(runtime)}}}"
    write(job_yaml=JOB, space_yaml=text)
    read_plan(Path("job.yaml"), {"targets": {"gpu": {"device": "cuda"}}})


TENSORRT = {"onnxruntime": {"provider": "tensorrt"}}
cases(
    "int8 on a GPU",
    on_a_gpu,
    {
        "onnxruntime": ("onnxruntime", "int8"),
        "onnxruntime, dynamic": ("onnxruntime", "int8_dynamic"),
        "onnxruntime on TensorRT, dynamic": (TENSORRT, "int8_dynamic"),
        "tensorrt, dynamic": ("tensorrt", "int8_dynamic"),
        "eager": ("eager", "int8"),
        "compiled": ("compiled", "int8"),
    },
)


def grammar(text: str) -> None:
    write(s_yaml=text)
    read_space(read_yaml(Path("s.yaml")))


cases(
    "grammar of spaces",
    grammar,
    {
        "no choices": ("runtime: {choices: []}",),
        "ends in the wrong order": ("input_size: {low: 5, high: 1}\nruntime: eager",),
        "no upper end": ("input_size: {low: 5}\nruntime: eager",),
        "a logarithm of 0": ("input_size: {low: 0, high: 1, log: true}\nruntime: eager",),
        "a misspelt key": ("input_size: {low: 1, high: 2, stp: 1}\nruntime: eager",),
        "an option twice": ("input_size: {choices: [1, 1]}\nruntime: eager",),
        "a choice without a name": ("steps:\n  - {choices: {a: null}}\nruntime: eager",),
        "a parameter twice": (
            "steps:\n  - prune: {ratio: {low: 0, high: 1}}\n  - prune: {ratio: {low: 0, high: 1}}\nruntime: eager",
        ),
        "an unknown parameter in a first point": (
            "input_size: {choices: [1, 2]}\nruntime: eager\nfirst:\n  - {inputsize: 1}",
        ),
        "an unknown option in a first point": (
            "input_size: {choices: [1, 2]}\nruntime: eager\nfirst:\n  - {input_size: 3}",
        ),
        "a list": ("- 1",),
        "a first point between whole numbers": ("size: {low: 2, high: 8}\nfirst: [{size: 4.5}]",),
        "a first point between steps": ("size: {low: 2, high: 8, step: 2}\nfirst: [{size: 5}]",),
        "a first point between small steps": ("size: {low: 0.2, high: 0.7, step: 0.1}\nfirst: [{size: 0.25}]",),
    },
)


def whole_numbers() -> None:
    write(
        s_yaml="input_size: 64\nsteps: [{finetune: {epochs: {low: 1, high: 3, step: 0.5}}}]\nruntime: eager\n",
    )
    checked_space(read_yaml(Path("s.yaml")))


case("space: a step of a half for whole numbers", whole_numbers)


def yaml(content: bytes | None) -> None:
    if content is not None:
        Path("a.yaml").write_bytes(content)
    read_yaml(Path("a.yaml"))


cases(
    "YAML",
    yaml,
    {
        "a key twice": (b"a: 1\nb: {c: 1, c: 2}\na: 2\n",),
        "a bracket that is not closed": (b"a: 1\nb: [1, 2\n",),
        "objects of Python": (b"a: !!python/object/apply:os.getcwd []\nb: !!python/name:os.system x\n",),
        "no file": (None,),
        "another encoding": (b"\xff\xfe\x00",),
    },
)


def training(fields: str) -> str:
    write(
        job_yaml=f"dataset: shapes\ndetector: yolo\ninput_size: 160\nspace: space.yaml\ntraining:\n  {fields}\n",
        space_yaml="input_size: {choices: [128, 160]}\nruntime: eager\n",
    )
    return refused("check", "job.yaml")


for fields in (
    "box_loss: smooth_l1",
    "box_loss: HuberLoss",
    "class_loss: NLLLoss",
    "class_loss: MSELoss",
    "class_loss: BCEWithLogitLoss",
    "class_loss: cross_entropy",
    "box_loss: gio",
    "optimizer: adamw",
    "optimizer: LBFGS",
    "optimizer: SparseAdam",
    "optimizer: Muon",
    "optimizer: Optimizer",
    "optimizer: lr_scheduler",
    "optimizer: Rprop\n  momentum: 0.5",
    "optimizer: Rprop\n  weight_decay: 0.1",
    "patience: 3",
    "validate_every: 5\n  patience: 3",
    "milestones: [0.5]",
    "schedule: step\n  milestones: [0.9, 0.5]",
    "schedule: step\n  milestones: [0.5, 3]",
    "gamma: 0.2",
    "multi_scale: 0.01",
    "multi_scale: 0.8",
    "amp: fast",
    "workers: 0",
    "accumulate: 0",
    "epochs: 5\n  freeze_epochs: 5",
    "minutes: 5\n  auto: false",
    "epochs: 5\n  augment: {mosaic: 0.5, close_epochs: 5}",
):
    case(f"training: {', '.join(fields.split(chr(10) + '  '))}", training, fields)

cases(
    "fields",
    lambda kind, given: kind.model_validate(given),
    {
        "yolo, weights of no name": (Yolo, {"weights": "coco"}),
        "yolo, an address without a hash": (Yolo, {"weights": "https://example.org/a.pth"}),
        "yolo, weights of another width": (Yolo, {"weights": "COCO", "width": 0.5}),
        "yolo, a hash that is none": (Yolo, {"weights": "a.pth", "sha256": "xyz"}),
        "ssd, a width of the other variant": (Ssd, {"variant": "ssd300_vgg16", "width": 0.5}),
        "ssd, boxes in the wrong order": (Ssd, {"smallest": 0.9, "largest": 0.5}),
        "ssd, weights of no name": (Ssd, {"weights": "COCO_V2"}),
        "ssd, weights of another width": (Ssd, {"weights": "COCO_V1", "width": 0.5}),
        "faster_rcnn, weights of no name": (FasterRcnn, {"weights": "coco"}),
        "faster_rcnn, an address without a hash": (FasterRcnn, {"weights": "https://example.org/mine.pth"}),
        "faster_rcnn, a hash of a named file": (FasterRcnn, {"weights": "COCO_V1", "sha256": "0" * 64}),
        "faster_rcnn, a hash of nothing": (FasterRcnn, {"sha256": "0" * 64}),
        "onnxruntime, fp16 on a CPU": (OnnxRuntime, {"precision": "fp16"}),
        "prune, both names of a field": (Prune, {"of": "flops", "budget": "flops"}),
        "target, an unknown device": (Target, {"device": "cudo"}),
        "recipe, a step that is none": (Recipe, {"steps": [{"prun": {}}], "runtime": "eager"}),
        "job, no epochs and no weights": (
            Job,
            {"dataset": "shapes", "detector": "ssd", "space": "space.yaml", "training": {"epochs": 0}},
        ),
    },
)
case("metrics: an unknown one", metric_of, "latency")


def for_a_cluster() -> None:
    Path("voc").mkdir()
    write(job_yaml=changed(JOB, "{shapes: {}}", "{voc: {root: voc}}\nbaseline: ~/trained"), space_yaml=SPACE)
    read_plan(Path("job.yaml"), here=False)


def without_a_dataset() -> str:
    write(job_yaml=changed(JOB, "{shapes: {}}", "{voc: {root: '???'}}"), space_yaml=SPACE)
    return refused("sweep", "job.yaml")


def both_names() -> None:
    job("search", "measuring: {spare: 1, max_extra_repetitions: 2}\nsearch")


def for_two_cores(*changes: str) -> str:
    write(job_yaml=JOB + "targets: {card: {device: cpu}}\n", space_yaml=SPACE)
    words = [word for change in changes for word in ("--set", change)]
    with (
        patch("os.sched_getaffinity", lambda _: {0, 1}),
        patch("paretune.workflows.machine_check.gpus_of_torch", lambda: 1),
    ):
        return refused("sweep", "job.yaml", *words)


case("job: relative folders for a cluster", for_a_cluster)
case("job: data that is not named", without_a_dataset)
case("job: both names of a field", both_names)
case("job: a checkpoint that is not there", job, "nano", "nano, weights: gone.pth")
cases(
    "machine",
    for_two_cores,
    {
        "threads of the target": ("targets.card.threads=3",),
        "workers": ("training.workers=3",),
        "threads of the workers": ("training.workers=2", "training.threads=2"),
        "GPUs of the workers": ("training.workers=2", "training.device=cuda"),
        "cores of a trial": ("resources.cpu=3",),
        "resources of a cluster": ("resources.custom={rtx4090: 1}",),
    },
)
