"""Whether a latency is right: against stopwatches that are not ours, and with costs that are known."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from believable import FOLDER, artefact
from compressed import images_of
from figures import Figures
from training import CASES, trained

from paretune.core.model import Model
from paretune.core.spec import parse_plugin
from paretune.core.target import Target
from paretune.core.types import Image
from paretune.detectors import DETECTORS
from paretune.profiling.latency.compare import compare
from paretune.profiling.latency.measure import measure
from paretune.profiling.latency.result import STAGES, Latency
from paretune.profiling.latency.samples import Stage, milliseconds
from paretune.profiling.latency.shared_images import measuring_images
from paretune.profiling.latency.worker_client import surroundings
from paretune.profiling.roofline.diagnosis import Diagnosis, diagnose
from paretune.profiling.roofline.hardware_peaks import HardwarePeaks, measure_roofs
from paretune.profiling.roofline.layer_work import LayerWork
from paretune.runtimes import RUNTIMES
from paretune.runtimes.artefact_writer import write_artefact
from paretune.storage.artefact import Artefact, read_artefact
from paretune.system.cpu_cores import choose_cores
from paretune.workflows.advise import advise_artefact
from paretune.workflows.recipe_source import RecipeImages

OFF = 0.05
"""Share by which a figure may differ from that of another stopwatch."""
CEILING = 0.10
"""Share by which a speedup may differ from the ceiling that was told."""
SECONDS = 3.0
"""How long another stopwatch runs."""
TURNS = 3
"""Ours and the other take turns so often: the machine's speed changes by more than they differ."""
SIZE = "416x320"
PLANTED = "planted"
KERNEL = 9
"""Side of the planted convolution."""
SIDE = 384
"""Of the square matrices of the known product."""
NAP = 0.008
"""Seconds of the known sleep."""


def fill(root: Path, figures: Figures) -> None:
    """Measure beside a stopwatch, OpenVINO's benchmark and ONNX Runtime alone; then known costs."""
    source = trained(CASES[0], 0, root).folder
    images = measuring_images(images_of(source).splits["val"])
    core = choose_cores(1)[0]
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "images.npz"
        np.savez(file, *images)
        for name, (runtime, watch, stage) in WATCHES.items():
            folder = artefact(source, SIZE, runtime)
            ours, theirs = [], []
            for _ in range(TURNS):
                latency = measure(folder, images, Target())
                ours.append(float(np.median(milliseconds(latency.rows, stage, "wall"))))
                theirs.append(watch(folder, core, file))
            off = median(one / other for one, other in zip(ours, theirs, strict=True)) - 1
            title = f"{runtime}: p50 ({stage}) from that of {name}"
            figures.add(title, 100 * abs(off), "%", at_most=100 * OFF)
            figures.more[title] = {"ours": ours, "theirs": theirs}
    _known(core, figures)
    _planted(source, images, figures)


def _stopwatch(folder: Path, core: int, images: Path) -> float:
    """Return the median in ms that a script finds which knows only how to predict."""
    code = f"""
import os, sys, time
os.sched_setaffinity(0, [{core}])
import cv2, numpy, pathlib
cv2.setNumThreads(1)
from paretune.runtimes.predictor import load_predictor
from paretune.core.target import Target
predictor = load_predictor(pathlib.Path({str(folder)!r}), Target())
images = list(numpy.load(sys.argv[1]).values())
times, end = [], time.monotonic() + {SECONDS + 1}
while time.monotonic() < end:
    start = time.monotonic()
    predictor(images[len(times) % len(images)])
    times.append(time.monotonic() - start)
print(1000 * numpy.median(times[len(times) // 4:]))
"""
    command = [sys.executable, "-c", code, str(images)]
    return float(subprocess.run(command, env=surroundings(1), check=True, text=True, capture_output=True).stdout)


def _benchmark_app(folder: Path, core: int, images: Path) -> float:
    """Return the median in ms that OpenVINO's tool finds."""
    words = ("-d", "CPU", "-api", "sync", "-hint", "none", "-nthreads", "1", "-nstreams", "1", "-pin", "NO")
    app = Path(sys.executable).parent / "benchmark_app"
    with tempfile.TemporaryDirectory() as place:
        command = ["taskset", "-c", str(core), str(app), "-m", str(folder / "model.onnx"), *words]
        command += ["-infer_precision", "f32", "-t", f"{SECONDS:g}", "-json_stats", "-report_type", "no_counters"]
        command += ["-report_folder", place, "-shape", str(list(_sides(folder)))]
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        told = json.loads((Path(place) / "benchmark_report.json").read_text())
    return float(told["execution_results"]["latency (ms)"])


def _session(folder: Path, core: int, images: Path) -> float:
    """Return the median in ms of a script that knows ONNX Runtime only.

    Its own profiler would not do: it made this network a sixth slower.
    """
    code = f"""
import os, time
os.sched_setaffinity(0, [{core}])
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession({str(folder / "model.onnx")!r}, options, providers=["CPUExecutionProvider"])
given = {{session.get_inputs()[0].name: numpy.random.default_rng(0).random({_sides(folder)}, numpy.float32)}}
times, end = [], time.monotonic() + {SECONDS}
while time.monotonic() < end:
    start = time.monotonic()
    session.run(None, given)
    times.append(time.monotonic() - start)
print(1000 * numpy.median(times[len(times) // 4:]))
"""
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, text=True, capture_output=True).stdout)


WATCHES: dict[str, tuple[str, Callable[[Path, int, Path], float], Stage]] = {
    "a script's stopwatch": ("onnxruntime", _stopwatch, "latency"),
    "benchmark_app": ("openvino", _benchmark_app, "network"),
    "ONNX Runtime in a script": ("onnxruntime", _session, "network"),
}
"""Other stopwatches → runtime, what asks them, and which of our stages it is."""


def _sides(folder: Path) -> tuple[int, ...]:
    size = read_artefact(folder).input_size
    return 1, 3, size.height, size.width


class _Known:
    """A predictor with a known sleep in one stage, and a known product of matrices as its network."""

    def __init__(self, stage: str) -> None:
        import torch

        torch.set_num_threads(1)
        self._stage = stage
        self._left, self._right = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
        self.facts: dict[str, Any] = {}

    def _sleep(self, stage: str) -> None:
        if stage == self._stage:
            time.sleep(NAP)

    def preprocess(self, image: Image) -> tuple[Any, None]:
        self._sleep("preprocess")
        return image, None

    def core(self, batch: Any) -> tuple[Any, ...]:
        self._sleep("network")
        return (self._left @ self._right,)

    def postprocess(self, raw: Any, placement: None) -> Any:
        self._sleep("postprocess")
        return raw


def load_known(folder: Path, target: Target) -> _Known:
    """Load what sleeps in the stage that the folder is named after."""
    return _Known(folder.name)


def _known(core: int, figures: Figures) -> None:
    """Add whether a sleep and a product are found where they are, and classed as what they are."""
    roofs, images = measure_roofs(Target()), [np.zeros((8, 8, 3), np.uint8)]
    verdicts = {"none": "compute-bound", "preprocess": "host-bound", "postprocess": "postprocess-bound"}
    measured = {
        stage: measure(Path(stage), images, Target(), loader="right:load_known") for stage in (*verdicts, "network")
    }
    wrong = []
    for stage in STAGES:
        found, wanted = _medians(measured[stage])[stage], _slept(stage, core)
        title = f"a sleep of {1000 * NAP:g} ms in {stage}: p50 of that stage from that of a script's stopwatch"
        figures.add(title, 100 * abs(found / wanted - 1), "%", at_most=100 * OFF)
        figures.more[title] = {"ours": found, "theirs": wanted}
    for stage, verdict in verdicts.items():
        diagnosed = _diagnosed(measured[stage], roofs)
        wrong += [f"{stage}: {diagnosed.verdict}"] if diagnosed.verdict != verdict else []
    figures.add("known costs that are classed wrongly", len(wrong), at_most=0)
    figures.more["known costs classed wrongly"] = wrong


def _slept(stage: str, core: int) -> float:
    """Return the median in ms that a script finds of the stage that sleeps.

    The sleep alone would not do: what runs after it, a product of matrices for one, finds cold caches.
    """
    code = f"""
import os, sys, time
os.sched_setaffinity(0, [{core}])
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy, pathlib, right
known = right.load_known(pathlib.Path({stage!r}), None)
image, times, end = numpy.zeros((8, 8, 3), numpy.uint8), [], time.monotonic() + {SECONDS}
while time.monotonic() < end:
    start = time.monotonic()
    batch, placement = known.preprocess(image)
    before = time.monotonic()
    raw = known.core(batch)
    after = time.monotonic()
    known.postprocess(raw, placement)
    times.append((before - start, after - before, time.monotonic() - after))
print(1000 * numpy.median(times, axis=0)[{STAGES.index(stage)}])
"""
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, env=surroundings(1), check=True, text=True, capture_output=True).stdout)


def _medians(latency: Latency) -> dict[Any, float]:
    return {stage: float(np.median(milliseconds(latency.rows, stage, "wall"))) for stage in STAGES}


def _diagnosed(latency: Latency, roofs: HardwarePeaks) -> Diagnosis:
    stages = _medians(latency)
    product = LayerWork("product", 2.0 * SIDE**3, SIDE**2, 2 * SIDE**2, "fp32")
    return diagnose(stages, {"product": stages["network"]}, {"product": product}, roofs)


def _planted(source: Path, images: Sequence[Image], figures: Figures) -> None:
    """Add whether a slow layer that does nothing is found, and whether its removal gives what was told."""
    plain = artefact(source, SIZE, "onnxruntime")
    slow = FOLDER / "onnxruntime-planted"
    if not slow.is_dir():
        _plant(read_artefact(plain), slow)
    from paretune.config.job import Job
    from paretune.core.yaml_document import read_yaml, validate

    job = validate(Job, read_yaml(source / "job.yaml"))
    found = advise_artefact(slow, RecipeImages(job.dataset, FOLDER / "datasets", job.training), Target())
    top = found.diagnosis.layers[0]
    figures.add("a planted slow layer is the slowest that is found", float(PLANTED in top.work.module), at_least=1)
    ceiling = next(one for one in found.diagnosis.ceilings() if one.part == top.work.module)
    ratio = compare([plain, slow], images, Target(), rounds=3).ratio(1).ratio
    figures.add("without it: times as fast as with it", ratio, "x")
    figures.add("the ceiling that was told, off by", 100 * abs(ceiling.free / ratio - 1), "%", at_most=100 * CEILING)


def _plant(artefact_: Artefact, folder: Path) -> None:
    """Write an artefact with one more convolution, of an identity, behind the first activation."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(artefact_.file("model.onnx"))
    graph = model.graph
    shapes = {
        entry.name: [side.dim_value for side in entry.type.tensor_type.shape.dim]
        for entry in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    number, before = next((n, node) for n, node in enumerate(graph.node) if node.op_type == "Mul")
    name, channels = before.output[0], shapes[before.output[0]][1]
    weight = np.zeros((channels, channels, KERNEL, KERNEL), np.float32)
    weight[range(channels), range(channels), KERNEL // 2, KERNEL // 2] = 1
    graph.initializer.append(numpy_helper.from_array(weight, f"{PLANTED}.weight"))
    for node in graph.node:
        node.input[:] = [f"{PLANTED}::out" if given == name else given for given in node.input]
    planted = helper.make_node(
        "Conv",
        [name, f"{PLANTED}.weight"],
        [f"{PLANTED}::out"],
        name=f"{PLANTED}::conv",
        kernel_shape=[KERNEL, KERNEL],
        pads=[KERNEL // 2] * 4,
    )
    graph.node.insert(number + 1, planted)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "model.onnx"
        onnx.save(model, file)
        write_artefact(
            folder,
            Model(None, file, artefact_.input_size),
            detector=parse_plugin(artefact_.detector, DETECTORS),
            runtime=parse_plugin(artefact_.runtime, RUNTIMES),
            recipe_tree=artefact_.recipe,
            classes=artefact_.classes,
        )
