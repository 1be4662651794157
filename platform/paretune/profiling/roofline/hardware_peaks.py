"""The roofs of a device: its measured speeds of matrix products and of memory copies.

Williams, Waterman and Patterson, Roofline: An Insightful Visual Performance Model for Multicore Architectures,
CACM 52(4), 2009 (https://doi.org/10.1145/1498765.1498785). Copies are measured at several working sets, because the
layers of a small detector fit into caches: Ilic, Pratas and Sousa, Cache-aware Roofline Model, IEEE CAL 13(1), 2014.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from paretune.core.devices import device_kind
from paretune.core.target import Target, cpu_has_bfloat16
from paretune.profiling.environment import cpu_name
from paretune.profiling.latency.worker_client import surroundings
from paretune.runtimes.eager import gpu_unsupported_reason
from paretune.system.cpu_cores import choose_cores
from paretune.system.device_lock import exclusive_device

CPU, ACCELERATOR = "cpu", "accelerator"
SIDES = {CPU: (256, 512, 1024), ACCELERATOR: (4096, 8192)}
"""Sides of the square matrices that are multiplied, of which the fastest product counts."""
COPIES = {CPU: (1 << 17, 1 << 19, 1 << 21, 1 << 23, 1 << 25, 1 << 28), ACCELERATOR: (1 << 25, 1 << 28, 1 << 32)}
"""Working sets in bytes, reading and writing together."""
TOGETHER = {CPU: 1 << 22, ACCELERATOR: 1 << 32}
"""Bytes that are copied between two readings of the clock: about a millisecond on a GPU."""
SECONDS = 0.15
"""Seconds for which each kernel is repeated."""
LIMIT = 300.0
"""Time limit of the measuring process in seconds."""


@dataclass(frozen=True)
class HardwarePeaks:
    """The speeds that a device reaches with a target's threads."""

    device: str
    """Name of the device."""
    compute: Mapping[str, float]
    """Precision → multiplications and additions per second of a matrix product."""
    copies: Sequence[tuple[int, float]]
    """Pairs of working set in bytes and bytes per second that are read and written, the smallest first."""
    reasons: Mapping[str, str]
    """Precision, or working set → why its roof is not known."""
    int8_layer: tuple[float, float] | None = None
    """Overhead of a layer in INT8 on torch in seconds: for the call, and for rounding each element of its input.

    None if it is not known."""

    def bandwidth(self, nbytes: float) -> float:
        """Return the bytes per second of the smallest measured working set that holds so many bytes."""
        return next((rate for size, rate in self.copies if size >= nbytes), self.copies[-1][1])

    def seconds(self, flops: float, nbytes: float, precision: str = "fp32") -> float:
        """Return the least time for these operations and bytes in seconds, with computing and copying overlapped.

        Raises:
            KeyError: the roof of this precision is not known.
        """
        return max(flops / self.compute[precision], nbytes / self.bandwidth(nbytes))

    def int8_overhead(self, elements: float) -> float:
        """Return the overhead of torch's INT8 layer with so many input elements in seconds; 0 if not known."""
        call, rounding = self.int8_layer or (0.0, 0.0)
        return call + rounding * elements

    def tree(self) -> dict[str, Any]:
        """Return the roofs as plain data."""
        return {**asdict(self), "copies": [list(pair) for pair in self.copies]}


def measure_roofs(target: Target) -> HardwarePeaks:
    """Measure the roofs of a target in a process of its own, alone on the device, for some seconds.

    Raises:
        RuntimeError: the process failed; its last output is in the message.
        UserError: the machine has too few cores.
    """
    cores = choose_cores(target.threads)
    command = [
        sys.executable,
        "-P",
        "-m",
        "paretune.profiling.roofline.hardware_peaks",
        target.device,
        *map(str, cores),
    ]
    with exclusive_device(target.device):
        try:
            done = subprocess.run(
                command, env=surroundings(target.threads), capture_output=True, text=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the roofs were not measured within {LIMIT:g} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(f"the roofs cannot be measured: {lines[-1] if lines else f'ended with {done.returncode}'}")
    tree = json.loads(done.stdout.splitlines()[-1])
    copies = [(size, rate) for size, rate in tree["copies"]]
    layer = tree["int8_layer"]
    return HardwarePeaks(tree["device"], tree["compute"], copies, tree["reasons"], layer and (layer[0], layer[1]))


def _main(device: str, cores: Sequence[int]) -> None:
    """Measure the roofs in this process and print them as one line of JSON."""
    os.sched_setaffinity(0, cores)
    import torch

    torch.set_num_threads(len(cores))
    torch.backends.cuda.matmul.allow_tf32 = False
    if problem := gpu_unsupported_reason(Target(device=device)):
        sys.exit(problem)
    size_class = CPU if device == CPU else ACCELERATOR
    compute, reasons = {}, {}
    for precision in ("fp32", "bf16", "fp16", "int8"):
        try:
            compute[precision] = max(_products(precision, side, device) for side in SIDES[size_class])
        except (NotImplementedError, RuntimeError) as error:
            reasons[precision] = str(error).splitlines()[0]
    copies = []
    for size in COPIES[size_class]:
        try:
            copies.append((size, _copies(size, device)))
        except RuntimeError as error:  # a device with less memory, whose layers are smaller too
            reasons[f"copies of {size} bytes"] = str(error).splitlines()[0]
    if not copies:
        sys.exit(f"no memory can be copied: {next(reversed(reasons.values()))}")
    name = cpu_name() if device == CPU else next(iter(device_kind(device).facts().values()), device)
    layer = None
    if device == "cpu" and "int8" in compute:
        with suppress(AttributeError, NotImplementedError, RuntimeError):  # a torch without oneDNN has no such layers
            layer = _int8_layer()
    tree = {"device": name, "compute": compute, "copies": copies, "reasons": reasons, "int8_layer": layer}
    print(json.dumps(tree))


def _products(precision: str, side: int, device: str) -> float:
    """Return the operations per second of products of square matrices.

    Raises:
        NotImplementedError: the CPU has no instructions for this precision, so that layers do not compute in it either.
        RuntimeError: torch has no such product.
    """
    import torch

    torch.manual_seed(0)
    if device == "cpu" and (precision == "fp16" or (precision == "bf16" and not cpu_has_bfloat16())):
        raise NotImplementedError(f"this CPU does not compute in {precision}")
    one, other = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    if precision == "int8":
        # torch takes the second matrix by columns on a GPU
        whole = [(64 * values).clamp(-127, 127).to(torch.int8) for values in (one, other)]
        left, right = whole[0], whole[1].t().contiguous().t()
        return 2 * side**3 / _fastest(lambda: torch._int_mm(left, right), device)  # noqa: SLF001 - it has no public name
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    left, right = one.to(kind), other.to(kind)
    out = torch.empty_like(left)
    return 2 * side**3 / _fastest(lambda: torch.mm(left, right, out=out), device)


def _copies(size: int, device: str) -> float:
    """Return the bytes per second that a copy of this working set reads and writes."""
    import torch

    source = torch.randn(size // 8, device=device)  # half of the bytes, four each
    into = torch.empty_like(source)
    often = max(
        1, TOGETHER[CPU if device == CPU else ACCELERATOR] // size
    )  # several small copies, so that the overhead of calls and waiting is small

    def several() -> None:
        for _ in range(often):
            into.copy_(source)

    return often * 2 * source.nbytes / _fastest(several, device)


def _int8_layer() -> tuple[float, float]:
    """Return the overhead of a convolution in INT8 in seconds: for a call, and for each element of its input.

    Each channel is multiplied by one number, so that the product itself takes hardly any time.
    """
    import torch

    from paretune.networks.int8_layers import Int8Conv2d

    fields = {"channels": [16, 16], "groups": 16, "kernel_size": [1, 1], "stride": [1, 1], "padding": [0, 0]}
    fields |= {"dilation": [1, 1], "input_scale": 0.1, "input_zero_point": 0}
    layer, images = Int8Conv2d.empty(fields, device=None), [torch.zeros(1, 16, side, side) for side in (4, 64)]
    with torch.inference_mode():
        call, whole = (_fastest(partial(layer, image), "cpu") for image in images)
    few, many = (image.numel() for image in images)
    return call, max(0.0, (whole - call) / (many - few))


def _fastest(run: Callable[[], Any], device: str) -> float:
    """Return the shortest time of a run in seconds, since a roof is the best time, not the usual one."""
    import torch

    wait: Callable[[], Any] = (lambda: None) if device == CPU else torch.get_device_module(device).synchronize
    run()
    wait()
    shortest, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        wait()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


if __name__ == "__main__":
    _main(sys.argv[1], [int(core) for core in sys.argv[2:]])
