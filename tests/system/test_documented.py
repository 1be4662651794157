"""The commands of the READMEs run as they stand, in their order, in a copy of the repository whose jobs are tiny.

So do the commands that the program prints for its reader. What is not run is listed in ``NOT_RUN``, with the reason.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml

from tests_support import ROOT, with_locks_of_its_own
from tests_support_documented import GUIDES, Block, blocks, lines, notebook_cells, printed

pytestmark = [pytest.mark.ray, pytest.mark.timeout(5400)]

TINY: dict[str, Any] = {
    "input_size": "96x64",
    "training": {"epochs": 4, "batch_size": 4, "lr": 1e-2, "ema": 0.9, "threads": 1, "device": "cpu"},
    "measuring": {
        "repetitions": 2,
        "max_extra_repetitions": 0,
        "seconds": 0.2,
        "contention_wait_seconds": 0,
        "rounds": 2,
        "energy_seconds": 0,
    },
}
SHAPES = {"shapes": {"train": 96, "val": 24, "test": 12, "size": "96x64", "difficulty": 0}}
SMALL_YOLO = {"yolo": {"variant": "nano", "depthwise": False, "width": 0.125}}
SPACE = """\
input_size: 96x64
steps:
  - name: slim
    choices:
      none: null
      pruned:
        - prune: {ratio: {low: 0.2, high: 0.6, step: 0.1}, round_to: 4}
        - finetune: {epochs: 1}
  - name: precision
    choices: {fp32: null, int8: {quantize: {images: 8}}}
runtime: onnxruntime
"""
NOT_RUN = {
    "make demo": "sets up an environment; its sweep is run here as `paretune sweep jobs/quickstart.yaml`",
    "make test": "these are the tests",
    "data download": "fetches half a gigabyte of a public server; tests/unit/test_data_download.py has one of its own",
}
SECOND_MACHINE = "## On two machines"


SHORT = ("front", "pick", "export", "predict", "evaluate", "data", "check")
"""Verbs that take seconds: these run in `make test`, all others in `make test-all`."""


class Copy:
    """A copy of the repository's jobs, spaces and READMEs, in which commands run as a reader types them."""

    def __init__(self, folder: Path) -> None:
        if not (Path(sys.prefix) / "bin" / "paretune").exists():
            pytest.skip("paretune is not installed in this environment")
        self.folder = folder
        self.said: list[str] = []
        for name in ("jobs", "search_spaces"):
            shutil.copytree(ROOT / name, folder / name)
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "home").mkdir()
        for job in (folder / "jobs").glob("*.yaml"):
            tree = yaml.safe_load(job.read_text())
            detector = SMALL_YOLO if "yolo" in tree["detector"] else tree["detector"]
            dataset = SHAPES if "shapes" in tree["dataset"] else tree["dataset"]
            kept = {key: tree[key] for key in ("space", "targets", "objectives", "constraints") if key in tree}
            search = {"trials": 6 if dataset is SHAPES else 3, "sampler": "random", "allow_unlearned": True}
            job.write_text(yaml.safe_dump({"dataset": dataset, "detector": detector, "search": search, **kept, **TINY}))
        for space in ("quickstart", "photographs"):
            (folder / "search_spaces" / f"{space}.yaml").write_text(SPACE)
        path = with_locks_of_its_own(folder, str(ROOT / "platform"))
        self.environment = {**os.environ, "HOME": str(folder / "home"), "PYTHONPATH": path, "MPLCONFIGDIR": str(folder)}

    def start(self, line: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command line in a shell; what lies in /data lies in the copy."""
        typed = line.replace("/data", f"{self.folder}/data")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **more}
        return subprocess.Popen(["bash", "-ec", typed], cwd=self.folder, env=self.environment, **pipes)

    def run(self, line: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command line to its end, and keep what it printed."""
        began = time.monotonic()
        process = self.start(line)
        said, _ = process.communicate(timeout=1800)
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)
        assert process.returncode in codes, f"{line}\nended with {process.returncode}\n{said[-5000:]}"
        self.said.append(said)
        return said

    def served(self, line: str) -> None:
        """Start a command that serves until Ctrl-C, ask it once it tells its address, and stop it."""
        process = self.start(line, start_new_session=True)
        assert process.stdout is not None
        try:
            for said in process.stdout:
                if "http://" in said:
                    break
            else:
                pytest.fail(f"{line}: ended without an address")
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy in which the demo's sweep has run, with the data that the README's reader has."""
    made = Copy(tmp_path_factory.mktemp("copy"))
    made.run(".venv/bin/paretune sweep jobs/quickstart.yaml")
    return with_data(made)


def with_data(made: Copy) -> Copy:
    """Make photographs in /data, and files of other programs."""
    made.run(".venv/bin/paretune data convert jobs/quickstart.yaml /data/BCCD --to voc")
    made.run(".venv/bin/paretune data convert jobs/quickstart.yaml /data/coco --to coco")
    pictures = sorted((made.folder / "data/BCCD/JPEGImages").iterdir())
    (made.folder / "data/new").mkdir()
    for picture in pictures[:3]:
        image = cv2.imread(str(picture))
        cv2.imwrite(str(made.folder / "data/new" / f"{picture.stem}.jpg"), image)
    cv2.imwrite(str(made.folder / "photo.jpg"), cv2.imread(str(pictures[0])))
    truth = next((made.folder / "data/coco/annotations").glob("*val*.json"))
    shutil.copy(truth, made.folder / "instances_val2017.json")
    boxes = json.loads(truth.read_text())["annotations"]
    found = [{key: box[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for box in boxes]
    (made.folder / "results.json").write_text(json.dumps(found))
    return made


def readme() -> Iterator[Block]:
    """The blocks of README.md and of the guides that a shell or Python runs."""
    pages = ("README.md", *GUIDES)
    return (block for page in pages for block in blocks(page) if block.language in {"bash", "python"})


def run_block(copy: Copy, block: Block) -> None:
    if block.language == "python":
        (copy.folder / "block.py").write_text(PRELUDE + block.text)
        copy.run(".venv/bin/python block.py")
        return
    for line in lines(block):
        if any(words in line for words in NOT_RUN):
            continue
        if "paretune ui" in line:
            copy.served(line)
        else:
            # profiles and trials of advice are done in part where the device is too busy to measure
            copy.run(line, (0, 1) if "profile " in line or "advise " in line else (0,))


PRELUDE = """\
import cv2
image = cv2.imread("photo.jpg")[..., ::-1].copy()
def train(): pass
"""


@pytest.mark.slow
def test_the_readmes_short_commands_run(swept: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = with_data(Copy(tmp_path_factory.mktemp("short")))
    (made.folder / "runs").mkdir(exist_ok=True)
    (made.folder / "runs" / "quickstart").symlink_to(swept.runs / "tiny")
    ran = []
    for line in (line for block in readme() if block.language == "bash" for line in lines(block)):
        verb = line.partition("paretune ")[2].partition(" ")[0]
        if verb in SHORT and "runs/trainings" not in line and not any(words in line for words in NOT_RUN):
            made.run(line)
            ran.append(verb)
    assert set(ran) == set(SHORT)


@pytest.mark.full
def test_the_readme_from_its_first_line_to_its_last(copy: Copy) -> None:
    for block in readme():
        run_block(copy, block)
    hints = [hint for said in copy.said for hint in printed(said)]
    kinds = {words[1] for hint in hints if len(words := hint.split()) > 1}
    assert {"ui", "evaluate", "sweep", "predict"} <= kinds, kinds
    for hint in dict.fromkeys(hints):
        line = hint.replace("IMAGE", "photo.jpg").replace("JOB.yaml", "jobs/quickstart.yaml")
        line = line.replace("--name advised", "--name advised-again")
        if " ui" in line:
            copy.served(line)
        else:
            copy.run(line)


def free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


@contextmanager
def beside(copy: Copy, line: str) -> Iterator[subprocess.Popen[str]]:
    """Keep a command running, as in a terminal of its own."""
    process = copy.start(line, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.full
def test_a_cluster_of_one_machine_as_its_readme_says(copy: Copy) -> None:
    if not (free(6379) and free(8265)):
        pytest.skip("a Ray head, or something else, listens on 6379 or 8265")
    text = (ROOT / "cluster/README.md").read_text()
    last = text.count("\n", 0, text.index(SECOND_MACHINE))
    head, send, look = (block for block in blocks("cluster/README.md") if block.line < last)
    secret = next(line for line in lines(send) if line.startswith("export"))
    with beside(copy, head.text):
        end = time.monotonic() + 180
        while free(8265) and time.monotonic() < end:
            time.sleep(1)
        said = copy.run(send.text)
        submission = next(word.strip("'\"") for word in said.split() if "raysubmit_" in word)
        for line in lines(look):
            typed = line.replace("raysubmit_…", submission)
            if "paretune ui" in line:
                copy.served(typed)
            else:
                copy.run(f"{secret}\n{typed}")


HEAD, OTHER = "10.213.7.1", "10.213.7.2"


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Two network namespaces with an address each, joined by a cable, as two machines that share a disk."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("namespaces need root and iproute2 (apt-get install iproute2)")
    names = tuple(f"pt{os.getpid()}{letter}" for letter in "ab")

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no namespaces here: ip {' '.join(words)}: {done.stderr.strip()}")

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "pt-a", "netns", names[0], "type", "veth", "peer", "name", "pt-b", "netns", names[1])
        for name, cable, address in zip(names, ("pt-a", "pt-b"), (HEAD, OTHER), strict=True):
            for words in (("addr", "add", f"{address}/24", "dev", cable), ("link", "set", cable, "up")):
                ip("-n", name, *words)
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.full
def test_two_machines_as_the_clusters_readme_says(copy: Copy, machines: tuple[str, str]) -> None:
    text = (ROOT / "cluster/README.md").read_text()
    begin = text.count("\n", 0, text.index(SECOND_MACHINE))
    head, other, send = [block for block in blocks("cluster/README.md") if block.line > begin][:3]
    shared = copy.folder / "shared"
    (shared / "VOCdevkit").mkdir(parents=True)
    (shared / "VOCdevkit" / "VOC2007").symlink_to(copy.folder / "data" / "BCCD")

    def on(machine: str, block: Block) -> str:
        text = (
            block.text.replace("HEAD", HEAD).replace("/shared", str(shared)).replace("paretune ", ".venv/bin/paretune ")
        )
        if block is not send:  # a disk of its own, as another machine has: Ray keeps a node's files in /tmp/ray
            (own := copy.folder / f"ray-{machine}").mkdir()
            text = f"mkdir -p /tmp/ray && mount --bind {own} /tmp/ray\n{text}"
        return f"ip netns exec {machine} bash -ec {shlex.quote(text)}"

    with beside(copy, on(machines[0], head)):
        end = time.monotonic() + 120
        while subprocess.run(
            ["ip", "netns", "exec", machines[1], "bash", "-c", f"exec 3<>/dev/tcp/{HEAD}/8265"],
            capture_output=True, check=False,
        ).returncode:  # fmt: skip
            assert time.monotonic() < end, "the head's dashboard does not answer"
            time.sleep(1)
        with beside(copy, on(machines[1], other)):
            time.sleep(10)
            said = copy.run(on(machines[1], send))
    assert said.count("ok node: ") == 2
    assert "NOT usable" not in said
    assert "front of voc" in said
    records = [json.loads(file.read_text()) for file in (shared / "runs/voc/trials").glob("*/record.json")]
    assert {record["state"] for record in records} == {"complete"}


@pytest.mark.full
def test_the_notebook_runs_as_it_stands(copy: Copy) -> None:
    (copy.folder / "jobs" / "cells.py").write_text("\n".join(notebook_cells("jobs/quickstart.ipynb")))
    copy.run("cd jobs && ../.venv/bin/python cells.py")
