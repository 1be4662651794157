"""Other libraries' sessions keep to the cores of the process: the kernel says where each thread may run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
from onnx import TensorProto, helper

from paretune.runtimes.onnx_session import library, process_cores_only
from tests_support import ROOT

CODE = """
import json, os, sys, time
from pathlib import Path
from tests.unit.test_own_cores import opened
core = int(sys.argv[1])
os.sched_setaffinity(0, {core})
own = sys.argv[2] == "own"
session = opened(own)
end = time.monotonic() + (0.5 if own else 30)
allowed = set()
while time.monotonic() < end and (own or len(allowed) < 2):  # threads bind themselves, some time after they begin
    lines = [line for file in Path("/proc/self/task").glob("*/status") for line in file.read_text().splitlines()]
    allowed |= {line.split()[1] for line in lines if line.startswith("Cpus_allowed_list")}
    time.sleep(0.01)
print(json.dumps(sorted(allowed)))
"""


def opened(own: bool):
    """Open a session as libraries do: with the options that they get when they ask for none."""
    edge = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("given", "made")]
    graph = helper.make_graph([helper.make_node("Abs", ["given"], ["made"])], "abs", edge[:1], edge[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    ort = library()
    with process_cores_only() if own else nullcontext():
        options = ort.SessionOptions()
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def allowed(how: str) -> set[str]:
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", CODE, str(core), how]
    paths = os.pathsep.join(map(str, (ROOT / "platform", ROOT / "tests", ROOT)))
    told = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": paths}
    )
    return set(json.loads(told.stdout))


def test_no_thread_leaves_the_cores_of_the_process() -> None:
    assert allowed("own") == {str(min(os.sched_getaffinity(0)))}


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: nothing to leave it for")
def test_without_it_one_does() -> None:
    assert len(allowed("usual")) > 1


def test_sessions_work_and_the_usual_options_come_back() -> None:
    usual = library().SessionOptions
    (made,) = opened(own=True).run(None, {"given": np.array([-2], np.float32)})
    assert made == 2
    assert library().SessionOptions is usual
