"""What this machine can do, check by check, each failure with its remedy."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from paretune.core.devices import DEVICES, device_kind
from paretune.core.errors import one_line, reason_of
from paretune.core.target import Target
from paretune.distributed.ray_leftovers import left_sessions
from paretune.distributed.ray_session import python_path
from paretune.runtimes import RUNTIMES
from paretune.workflows.doctor_hardware import GIB, Finding, State, cores, energy, governor, gpus, memory, nsight

LITTLE_DISK, NO_DISK = 10 * GIB, GIB
"""Free bytes below which a sweep may not end, and below which none begins."""
PATIENCE = 240.0
"""Time limit in seconds for a small layer on a runtime; a compilation takes half a minute on a quiet core."""
ESSENTIAL = frozenset({"eager", "onnxruntime"})
"""Runtimes of the baselines, without which no sweep runs."""
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|KEY", re.IGNORECASE)
SHOWN = re.compile(r"PARETUNE_|MLFLOW_|CUDA_VISIBLE_DEVICES$|OMP_NUM_THREADS$|CXX$|CC$|TMPDIR$")


TryRuntime = Callable[[str, str], str | None]
"""Function of a runtime's name and a device that returns why the runtime does not work; None if it does."""


def examine(
    runs: Path, say: Callable[[str], None] = lambda _: None, try_runtime: TryRuntime | None = None
) -> list[Finding]:
    """Return the results of all checks; none of them raises.

    Args:
        runs: output folder.
        say: called with a line before what takes seconds.
        try_runtime: runs a layer on a runtime; None does it in a process of its own.
    """
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "python": python,
        "packages": packages,
        "output folder": lambda: disk(runs),
        "memory": memory,
        "cpu": cores,
        "governor": governor,
        "gpu": gpus,
        "energy": energy,
        "nsight": nsight,
        "runtimes": lambda: runtimes(say, try_runtime or run_layer),
        "ray": ray_leftovers,
        "device lock": device_lock,
        "mlflow": lambda: mlflow(runs),
        "variables": variables,
    }
    found = list[Finding]()
    for name, check in checks.items():
        try:
            found += check()
        except Exception as error:  # noqa: BLE001 - the other checks are still of use
            found.append(Finding(name, "warning", f"could not be checked: {reason_of(error)}"))
    return found


def is_usable(findings: Sequence[Finding]) -> bool:
    """Return whether Paretune is usable on this machine."""
    return all(one.state != "error" for one in findings)


def examined_tree(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return results as plain data."""
    return {"usable": is_usable(findings), "checks": [asdict(one) for one in findings]}


def examined_text(findings: Sequence[Finding]) -> str:
    """Return a line for each result, and below it what to do."""
    from paretune.core.console import filled

    wide = max((len(one.state) for one in findings), default=0)
    lines = []
    for one in findings:
        lines.append(filled(f"{one.state.ljust(wide)} {one.check}: {one.found}", " " * (wide + 1)))
        if one.remedy is not None:
            lines.append(filled(f"{' ' * wide} to do: {one.remedy}", " " * (wide + 3)))
    last = "usable" if is_usable(findings) else "NOT usable: mend what is marked error"
    return "\n".join([*lines, last])


def python() -> Iterator[Finding]:
    """Check the version of Python."""
    from packaging.specifiers import SpecifierSet

    now, wanted = platform.python_version(), _required_python()
    if wanted is None:
        yield Finding("python", "warning", f"{now}; Paretune is not installed as a package: versions are not known")
    elif SpecifierSet(wanted).contains(now, prereleases=True):
        yield Finding("python", "ok", f"{now} in {sys.prefix}")
    else:
        remedy = f"make an environment with a Python {wanted}: make setup PYTHON=python3.12"
        yield Finding("python", "error", f"{now}, and {wanted} is required", remedy)


def _required_python() -> str | None:
    try:
        return str(metadata("paretune")["Requires-Python"])
    except PackageNotFoundError:
        return None


def packages(required: Sequence[str] | None = None) -> Iterator[Finding]:
    """Check the installed versions of all required packages.

    Args:
        required: requirements as ``pyproject.toml`` writes them; None reads those of the installed Paretune.
    """
    from packaging.requirements import Requirement

    if required is None:
        try:
            required = requires("paretune") or ()
        except PackageNotFoundError:
            return
    wrong, count = {}, 0
    for one in map(Requirement, required):
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            now = version(one.name)
        except PackageNotFoundError:
            now = "not installed"
        if now == "not installed" or not one.specifier.contains(now, prereleases=True):
            wrong[f"{one.name}{one.specifier}"] = now
    if wrong:
        told = ", ".join(f"{wanted} ({now})" for wanted, now in wrong.items())
        remedy = f"pip install {' '.join(repr(wanted) for wanted in wrong)}"
        yield Finding("packages", "error", f"{len(wrong)} of {count} are not as required: {told}", remedy)
    else:
        yield Finding("packages", "ok", f"{count} as required")


def disk(runs: Path) -> Iterator[Finding]:
    """Check that the output folder can be written, and the free space there and for temporary files."""
    place = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.is_dir())
    other = "name another output folder (`output` in the job, --runs)"
    if not os.access(place, os.W_OK | os.X_OK):
        yield Finding("output folder", "error", f"{place} cannot be written", other)
    for name, folder, remedy in (
        ("disk", place, f"free space, or {other}"),
        ("temporary files", Path(tempfile.gettempdir()), "free space, or set TMPDIR to a folder on another disk"),
    ):
        free = shutil.disk_usage(folder).free
        state: State = "error" if free < NO_DISK else "warning" if free < LITTLE_DISK else "ok"
        yield Finding(name, state, f"{free / GIB:.1f} GiB free in {folder}", None if state == "ok" else remedy)


def runtimes(say: Callable[[str], None], try_runtime: TryRuntime) -> Iterator[Finding]:
    """Run a small layer on every runtime and device that is here."""
    for name in RUNTIMES.names:
        runtime = RUNTIMES.load(name)()
        devices = [device for device in runtime.devices if device not in DEVICES.rows or device_kind(device).count()]
        for device in devices or runtime.devices[:1]:
            label = f"runtime {name}" if device == "cpu" else f"runtime {name} on {device}"
            missing = runtime.unsupported_reason(Target(device=device)) if devices else f"there is no {device} here"
            state: State = "error" if name in ESSENTIAL and device == "cpu" else "absent"
            if missing is not None:
                yield Finding(label, state, missing)
                continue
            say(f"running a layer on {label}")
            reason = try_runtime(name, device)
            if reason is None:
                yield Finding(label, "ok", "ran a small layer")
            else:
                broken: State = "error" if state == "error" else "warning"
                libraries = ", ".join(runtime.packages or runtime.libraries)
                yield Finding(label, broken, reason, f"try again on a quiet machine, or install {libraries} again")


def run_layer(name: str, device: str, patience: float = PATIENCE) -> str | None:
    """Run a small layer on a runtime in a process of its own; return why that failed, None if it did not.

    Args:
        name: of the runtime.
        device: to run on.
        patience: time limit in seconds, after which the process and all that it started are ended.
    """
    command = [sys.executable, "-P", "-m", "paretune.workflows.doctor_runtime", str(os.getpid()), name, device]
    environment = {**os.environ, "PYTHONPATH": python_path()}
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            return f"did not end within {patience:g} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode == 0:
        return None
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "it printed nothing")
    return f"{last.strip()} (exit code {process.returncode})"


def ray_leftovers(place: Path | None = None) -> Iterator[Finding]:
    """Look for processes and files of Rays whose sweeps are gone."""
    left = left_sessions(place or Path(tempfile.gettempdir()))
    for one in left:
        kill = f"kill -9 {' '.join(map(str, one.processes))}; " if one.processes else ""
        what = f"{len(one.processes)} processes and files" if one.processes else "files"
        yield Finding("ray", "warning", f"{what} of a Ray that ended are in {one.folder}", f"{kill}rm -r {one.folder}")
    if not left:
        yield Finding("ray", "ok", "nothing is left of earlier sweeps")


def device_lock() -> Iterator[Finding]:
    """Check the folder of the device locks, and list who works on the CPU now."""
    from paretune.system import device_lock as locks
    from paretune.system.device_holders import holders

    try:
        folder = locks.lock_folder()
    except (OSError, RuntimeError) as error:
        yield Finding("device lock", "error", one_line(error), "remove what is there, or make it yours")
        return
    now = [str(holder) for holder in holders(folder, locks.HOST)]
    yield Finding("device lock", "ok", f"{folder}; {'; '.join(now) or 'nobody works on the CPU now'}")


def mlflow(runs: Path, patience: float = 5.0) -> Iterator[Finding]:
    """Check that the MLflow server answers which the environment names."""
    from paretune.tracking.mlflow_client import LogPlace

    place = LogPlace.of(runs, "doctor", None, None)
    if place.server is None:
        yield Finding("mlflow", "ok", f"{place.words}; no server is configured")
        return
    if place.address is None:
        yield Finding("mlflow", "ok", f"{place.words}, which is not asked")
        return
    try:
        with urllib.request.urlopen(f"{place.address}/health", timeout=patience):  # noqa: S310 - http or https
            yield Finding("mlflow", "ok", f"{place.address} answers")
    except urllib.error.HTTPError as error:
        yield Finding("mlflow", "ok", f"{place.address} answers with code {error.code}")
    except (OSError, ValueError) as error:
        remedy = "start the server, or unset MLFLOW_TRACKING_URI; a sweep runs all the same, and `sync` logs it later"
        yield Finding("mlflow", "warning", f"{place.address} does not answer: {one_line(error)}", remedy)


def variables(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """List the environment variables that Paretune, MLflow and the libraries follow, without secrets."""
    from paretune.system.device_holders import DOING

    for name in sorted(environ):
        if SHOWN.match(name) and name != DOING:
            value = "(hidden)" if SECRET.search(name) else re.sub(r"//[^/@]*@", "//", environ[name])
            yield Finding("variable", "ok", f"{name}={value}")
