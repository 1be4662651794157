"""Nsight Compute on a GPU: the kernel that was planted is found."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.detectors import DETECTORS
from paretune.profiling.latency.shared_images import saved_images
from paretune.profiling.nsight.csv_parser import rules
from paretune.profiling.nsight.run import NsightResult, look_at, preflight
from paretune.reports.nsight_tables import nsight_tables
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.compiled import Compiled
from paretune.runtimes.eager import Eager
from tests_support_profiling import FAKE_ROW, FakeDetector, images

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.alone,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.skipif(shutil.which("ncu") is None, reason="there is no ncu"),
]
GPU = Target(device="cuda")
MATRIX_PRODUCT = re.compile("gemm|cutlass|xmma|cublas|nvjet|matmul", re.IGNORECASE)


def seen(folder: Path, loader: str) -> NsightResult:
    if reason := preflight():
        pytest.skip(reason)
    pictures: list[Any] = [np.full((4, 4, 3), 3, np.uint8)] if "planted" in loader else images()
    with saved_images(pictures) as file:
        looks = look_at([folder], file, GPU, limit=240, loader=f"tests_support_nsight:{loader}")
    (look,) = looks.looks
    print(*nsight_tables([folder.name], looks), sep="\n")
    if look.reason is not None:
        print(look.files.get("log.txt"))
        if "only administrators" in look.reason:
            pytest.skip(look.reason)
    assert look.reason is None
    return look


def test_a_planted_product_of_matrices_is_what_takes_longest(tmp_path: Path) -> None:
    look = seen(tmp_path, "load_planted")
    first = look.kernels[0]
    assert MATRIX_PRODUCT.search(first.name), first.name
    assert first.launches == 1
    assert first.share > 0.8
    assert sum(kernel.share for kernel in look.kernels) == pytest.approx(1)
    assert first.bound == "compute"
    # the addition reads and writes a matrix once
    added = next(kernel for kernel in look.kernels if "elementwise" in kernel.name and kernel.seconds > 1e-5)
    assert added.bound == "memory"
    found = rules(look.files["details.csv"])
    assert {rule.kind for rule in found} <= {"OPT", "WRN", "INF"}
    assert found


@pytest.mark.parametrize("runtime", [Eager(), Compiled()], ids=str)
def test_an_artefact_is_looked_at_for_one_inference(
    runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DETECTORS.rows, "fake", FAKE_ROW)
    torch.manual_seed(0)
    model = Model(FakeDetector().build(2).eval(), None, InputSize(64, 48))
    told = {"detector": FakeDetector(), "runtime": runtime, "recipe_tree": {}, "classes": ("a", "b")}
    write_artefact(tmp_path / "artefact", model, **told)
    look = seen(tmp_path / "artefact", "load_fake")
    launches = sum(kernel.launches for kernel in look.kernels)
    assert 2 <= launches <= 60  # three convolutions and what lies around them, once
    assert all(kernel.sm_percent is not None and kernel.bound is not None for kernel in look.kernels)
