"""Running Nsight Compute on one warmed-up inference of each artefact; every obstacle becomes a reason.

Durations under Nsight Compute are no latencies: every kernel runs alone, and once for each group of counters.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paretune.core.errors import one_line
from paretune.core.target import Target
from paretune.profiling.latency.worker_client import LOADER
from paretune.profiling.nsight.csv_parser import NsightCsvError, errors, launches, rules
from paretune.profiling.nsight.kernels import DURATION, PASSES, Kernel, KernelHint, advice, by_name
from paretune.system.device_lock import exclusive_device
from paretune.system.machine_cache import scratch

NCU = "ncu"
RANGE = "paretune"
"""NVTX range around the profiled inference."""
SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "LaunchStats", "Occupancy")
LIMIT = 900.0
"""Time limit for one artefact in seconds."""
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
GPUS_ONLY = "Nsight Compute looks at GPUs only: give --device cuda"
PERMISSION = (
    "only administrators may read this GPU's counters: run as root, or load the driver with "
    "NVreg_RestrictProfilingToAdminUsers=0, or start the container with --cap-add SYS_ADMIN"
)
SIGNALS = (
    (r"ERR_NVGPUCTRPERM|CUPTI_ERROR_INSUFFICIENT_PRIVILEGES", PERMISSION),
    (
        r"driver resource was unavailable",
        "another profiler holds this GPU's counters: end it, or pause DCGM with dcgmi profile --pause",
    ),
    (
        r"Failed to find (metric|section)|No sections? match|No section(s)? found",
        "this ncu does not know what is asked of this GPU: install a newer Nsight Compute",
    ),
    (r"nsight-compute-lock", "ncu cannot write its lock file: remove it, or set TMPDIR to a folder of your own"),
    (
        r"LibraryNotLoaded|Cuda driver is not compatible|driver version is insufficient",
        "ncu cannot use this driver: install the Nsight Compute of the driver's CUDA version; sandboxes may forbid it",
    ),
)
"""Pattern in ncu's messages → what is wrong and what to do; the first match counts."""
NO_KERNELS = (
    "no kernel ran within the inference: the runtime launched none on the GPU in the thread that called it; "
    "see the artefact's device or provider"
)


@dataclass(frozen=True)
class NsightResult:
    """The kernels of one inference of an artefact, or the reason why they are not known."""

    kernels: tuple[Kernel, ...] = ()
    """The kernels by name, the longest first."""
    advice: tuple[KernelHint, ...] = ()
    passes: int | None = None
    """Largest number of times that a kernel was run."""
    reason: str | None = None
    """Why there are no kernels, and what to do; None if there are."""
    files: dict[str, str] = field(default_factory=dict, repr=False)
    """File name → content: ``raw.csv`` and ``details.csv`` as ncu printed them, and its messages in ``log.txt``."""

    def to_dict(self) -> dict[str, Any]:
        """Return all but the files as plain data."""
        return {name: value for name, value in asdict(self).items() if name != "files"}


@dataclass(frozen=True)
class NsightResults:
    """Nsight Compute's results for all artefacts."""

    looks: tuple[NsightResult, ...] = ()
    version: str | None = None
    reason: str | None = None
    """Why Nsight Compute was not run at all, and what to do; None if it was run."""

    def to_dict(self) -> dict[str, Any]:
        """Return all but the files as plain data."""
        return {"version": self.version, "reason": self.reason, "artefacts": [look.to_dict() for look in self.looks]}

    def failures(self, names: Sequence[str]) -> list[str]:
        """Return a line for each artefact whose kernels are not known, with the reason."""
        if self.reason is not None:
            return [f"Nsight Compute: {self.reason}"]
        pairs = zip(names, self.looks, strict=True)
        return [f"{name}: Nsight Compute: {look.reason}" for name, look in pairs if look.reason is not None]

    def save(self, folder: Path) -> None:
        """Write ncu's own files of each artefact: ``nsight-0-raw.csv`` and so on."""
        for number, look in enumerate(self.looks):
            for name, text in look.files.items():
                (folder / f"nsight-{number}-{name}").write_text(text)


def look_at(
    artefacts: Sequence[Path],
    images: Path,
    target: Target,
    progress: Callable[[str], None] = lambda _: None,
    *,
    limit: float = LIMIT,
    loader: str = LOADER,
) -> NsightResults:
    """Run Nsight Compute on one inference of each artefact; failures become reasons, nothing is raised.

    Args:
        artefacts: folders of the artefacts.
        images: file of ``images.saved_images``.
        target: device; a CPU has no kernels.
        progress: called with a line before each artefact.
        limit: seconds for each artefact.
        loader: ``module:function`` (folder, target) → predictor.
    """
    if target.device != "cuda":
        return NsightResults(reason=GPUS_ONLY)
    if reason := preflight():
        return NsightResults(version=version(), reason=reason)
    looks = []
    for number, artefact in enumerate(artefacts, start=1):
        progress(f"Nsight Compute on {artefact} ({number} of {len(artefacts)})")
        try:
            with exclusive_device(target.device), scratch() as folder:
                looks.append(_look(artefact, images, Path(folder), limit, loader))
        except Exception as error:  # noqa: BLE001 - a failure here must not lose the measurements before it
            looks.append(NsightResult(reason=f"{type(error).__name__}: {one_line(error)}"))
    return NsightResults(tuple(looks), version())


def preflight() -> str | None:
    """Return why Nsight Compute cannot be started here and what to do, in one line; None if it can."""
    if shutil.which(NCU) is None:
        return f"there is no {NCU} on the PATH: install Nsight Compute, or add its folder (in CUDA's, bin) to the PATH"
    return None if version() else f"{shutil.which(NCU)} --version prints no version: install Nsight Compute again"


def version() -> str | None:
    """Return ncu's version, such as ``2025.3.1.0``; None if ncu prints none."""
    try:
        done = subprocess.run([NCU, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"Version (\d+(\.\d+)+)", done.stdout)
    return match[1] if match else None


def command(artefact: Path, images: Path, report: Path, limit: float, loader: str = LOADER) -> list[str]:
    """Return the command line that profiles one inference.

    Clocks and caches stay as they are in use: by default ncu lowers the clocks and empties the caches.
    Kernels of a CUDA graph are profiled one by one.
    """
    child = ["-P", "-m", "paretune.profiling.nsight.child", str(artefact), str(images)]
    return [
        *(NCU, "--config-file", "off", "--target-processes", "all"),
        *("--nvtx", "--nvtx-include", f"{RANGE}/"),  # the slash: a range that is pushed and popped
        *(word for section in SECTIONS for word in ("--section", section)),
        *("--replay-mode", "kernel", "--graph-profiling", "node", "--kernel-name-base", "demangled"),
        *("--clock-control", "none", "--cache-control", "none"),
        *("--force-overwrite", "--export", str(report)),
        *(sys.executable, *child, "--loader", loader, "--seconds", f"{limit:.0f}"),
    ]


def print_command(report: Path, page: str) -> list[str]:
    """Return the command line that prints a page of a report (``raw`` or ``details``) as CSV; it needs no GPU."""
    return [NCU, "--import", str(report), "--csv", "--page", page, "--print-units", "base"]


def _look(artefact: Path, images: Path, folder: Path, limit: float, loader: str) -> NsightResult:
    report = folder / "seen.ncu-rep"
    code, log = _run(command(artefact.absolute(), images, report, limit, loader), folder / "log.txt", limit)
    files = {"log.txt": log}
    if code != 0 or not report.is_file():
        return NsightResult(reason=_reason(code, log, limit), files=files)
    for page in ("raw", "details"):
        code, text = _run(print_command(report, page), folder / f"{page}.csv", limit)
        if code != 0:
            return NsightResult(reason=_reason(code, text, limit), files=files)
        files[f"{page}.csv"] = text
    try:
        seen, proposals = launches(files["raw.csv"]), rules(files["details.csv"])
    except NsightCsvError as error:
        return NsightResult(reason=f"{one_line(error)}; see log.txt", files=files)
    kernels = by_name(seen)
    if not kernels:
        counters = f"every counter is n/a ({DURATION[0]} among them): {PERMISSION}"
        return NsightResult(reason=counters if seen else NO_KERNELS, files=files)
    passes = [count for launch in seen if (count := launch.number(*PASSES)) is not None]
    return NsightResult(kernels, advice(seen, proposals), int(max(passes)) if passes else None, None, files)


def _run(words: Sequence[str], file: Path, limit: float) -> tuple[int | None, str]:
    """Run a command with a time limit, and end its process group; returns exit code (None at the limit) and output."""
    with file.open("wb") as out:
        # a file, not a pipe: a process that outlives ncu could hold a pipe open for ever
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=_env()
        )
        code: int | None = None
        try:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(limit)
        finally:
            _end(process)
    return code, file.read_text(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the group of a process that still runs, by SIGTERM first, so that ncu can release the GPU."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while (
        time.monotonic() < deadline and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    ):
        time.sleep(0.05)
    with suppress(ProcessLookupError):  # the group's number is ours until its leader is waited for
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _env() -> dict[str, str]:
    """Return the environment of ncu and of the profiled process: English numbers, and the imports of this process."""
    places = [str(Path(__file__).parents[3]), *(str(Path(place).absolute()) for place in sys.path if place)]
    return {**os.environ, "LC_ALL": "C", "PYTHONPATH": os.pathsep.join(dict.fromkeys(places))}


def _reason(code: int | None, log: str, limit: float) -> str:
    """Return what went wrong, and what to do, in one line."""
    own_words = "\n".join(line for line in log.splitlines() if line.startswith("=="))
    if known := next((advice for signs, advice in SIGNALS if re.search(signs, own_words)), None):
        own = next((line for line in errors(log) if re.search("Failed to find|No section", line)), "")
        return f"{known} ({own})" if own else known
    if code is None:
        return f"Nsight Compute did not end within {limit:g} s and was stopped: profile a smaller artefact by itself"
    if child := re.search(r"^paretune: (.+)$", log, re.MULTILINE):
        return f"the profiled process failed: {child[1]}"
    if "No kernels were profiled" in log:
        return NO_KERNELS
    last = [*log.split("\n"), *errors(log)]
    message = next((line.strip() for line in reversed(last) if line.strip()), "it said nothing")
    return f"ncu ended with {code}: {message}"
