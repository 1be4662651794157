"""Which GPU of the machine is meant: CUDA's number of it in this process says so only with CUDA_VISIBLE_DEVICES.

Everything asks here (the device lock, what is watched, energy), so that all mean the same one. ``pynvml``
(nvidia-ml-py) tells the UUIDs; torch is asked only where it uses CUDA already.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

HIDDEN = {"", "NoDevFiles"}
"""Entries of CUDA_VISIBLE_DEVICES after which nothing is visible."""
_uuids: dict[tuple[object, ...], tuple[str, ...]] = {}
"""What was found before: asking NVML takes a moment, and a device is locked thousands of times."""


class NoGpuError(RuntimeError):
    """There is no GPU to look at; the message says why."""


def uuids_of(number: int = 0, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the UUID of a physical GPU; those of all GPUs of the machine where it is not clear which one is meant.

    A MIG instance counts as the GPU that it is a part of: they share its power and its clocks.

    Args:
        number: CUDA's, in this process.
        environ: where CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER are read.

    Returns:
        None at all where NVML tells nothing.
    """
    try:
        library, torchs = nvml(), _by_torch(number)[1]
        order = (environ.get("CUDA_VISIBLE_DEVICES"), environ.get("CUDA_DEVICE_ORDER"))
        key = (library, number, torchs, *order)
        if key not in _uuids:
            with started(library):
                _uuids[key] = _uuids_of(library, number, environ)
        return _uuids[key]
    except NoGpuError:
        return ()


def number_of(device: str) -> int:
    """Return CUDA's number in a device's name: 0 for ``cuda``, 1 for ``cuda:1``."""
    return int(device.partition(":")[2] or 0)


def nvml() -> Any:
    """Return ``pynvml``; tests put a fake here.

    Raises:
        NoGpuError: it is not installed.
    """
    try:
        import pynvml
    except ImportError:
        raise NoGpuError("pynvml (nvidia-ml-py) is not installed") from None
    return pynvml


@contextmanager
def started(library: Any) -> Iterator[None]:
    """Keep NVML open; it counts its users, so blocks may be nested.

    Raises:
        NoGpuError: no driver, or it does not answer.
    """
    try:
        library.nvmlInit()
    except errors_of(library) as error:
        missing = "no NVIDIA driver is installed (libnvidia-ml.so.1 is not found)"
        found = "not found" in str(error).lower()
        raise NoGpuError(missing if found else f"NVML: {str(error).lower()}") from None
    try:
        yield
    finally:
        with suppress(*errors_of(library)):
            library.nvmlShutdown()


def errors_of(library: Any) -> tuple[type[Exception], ...]:
    """Return what the functions of the library raise."""
    mismatch = getattr(library, "NVMLLibraryMismatchError", library.NVMLError)
    return (library.NVMLError, mismatch)


def handle_of(library: Any, device: int | str | None, environ: Mapping[str, str]) -> Any:
    """Return the handle of a GPU by its UUID: numbers of CUDA and of NVML need not be the same.

    Args:
        library: NVML, which is open.
        device: CUDA's number of it in this process, or its UUID (the beginning is enough); None is the GPU that
            torch uses at the moment, or the first visible one.
        environ: where CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER are read.

    Raises:
        NoGpuError: there is none, or it is not clear which one.
    """
    handles, uuids = _all(library)
    try:
        names = {library.nvmlDeviceGetName(handle) for handle in handles}
    except errors_of(library) as error:
        raise NoGpuError(f"NVML: {str(error).lower()}") from None
    if isinstance(device, str):
        return _by_uuid(library, device, handles, uuids)
    number, known = _by_torch(device)
    if known in uuids:  # that of a MIG instance is not among them
        return handles[uuids.index(known)]
    entry = _entry(number, environ.get("CUDA_VISIBLE_DEVICES"), len(handles))
    if not entry.isdigit():
        return _by_uuid(library, entry, handles, uuids)
    if len(names) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        raise NoGpuError(
            f"GPU {entry} of this machine's {len(handles)}, of several models, may be another one for CUDA than for "
            "NVML; set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name it by UUID"
        )
    return handles[int(entry)]


def _uuids_of(library: Any, number: int, environ: Mapping[str, str]) -> tuple[str, ...]:
    _, every = _all(library)
    with suppress(NoGpuError, *errors_of(library)):
        handle = handle_of(library, number, environ)
        with suppress(AttributeError, *errors_of(library)):  # one that knows no instances has none
            answer = library.nvmlDeviceIsMigDeviceHandle(handle)
            if int(getattr(answer, "value", answer)):  # some versions give a ctypes number
                handle = library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        return (str(library.nvmlDeviceGetUUID(handle)),)
    return tuple(sorted(every))


def _all(library: Any) -> tuple[list[Any], list[str]]:
    """Return the handles of the machine's GPUs and their UUIDs.

    Raises:
        NoGpuError: there are none, or NVML does not say.
    """
    try:
        handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
        uuids = [str(library.nvmlDeviceGetUUID(handle)) for handle in handles]
    except errors_of(library) as error:
        raise NoGpuError(f"NVML: {str(error).lower()}") from None
    if not handles:
        raise NoGpuError("the driver finds no GPU")
    return handles, uuids


def _entry(number: int, visible: str | None, count: int) -> str:
    """Return what CUDA_VISIBLE_DEVICES says of CUDA's GPU ``number``: an index of the machine's GPUs, or a UUID.

    As CUDA does, the list ends before the first index that there is not.

    Raises:
        NoGpuError: so many are not visible.
    """
    entries = [str(index) for index in range(count)] if visible is None else []
    for word in (visible or "").split(",") if visible is not None else []:
        entry = word.strip()
        index = int(entry) if re.fullmatch(r"[+-]?\d+", entry) else None
        if entry in HIDDEN or (index is not None and not 0 <= index < count):
            break
        entries.append(entry if index is None else str(index))
    if not entries:
        raise NoGpuError(f"CUDA_VISIBLE_DEVICES={visible} leaves none of this machine's {count}")
    if not 0 <= number < len(entries):
        raise NoGpuError(f"GPU {number} is asked for, and {len(entries)} are visible")
    return entries[number]


def _by_uuid(library: Any, uuid: str, handles: list[Any], uuids: list[str]) -> Any:
    """Return the handle of the GPU, or of the MIG instance, whose UUID begins like this.

    Raises:
        NoGpuError: none does, or several do.
    """
    if uuid.startswith("MIG-"):
        try:
            return library.nvmlDeviceGetHandleByUUID(uuid)
        except errors_of(library) as error:
            raise NoGpuError(f"{uuid}: NVML: {str(error).lower()}") from None
    fitting = [handle for handle, one in zip(handles, uuids, strict=True) if one.startswith(uuid)]
    if len(fitting) != 1:
        raise NoGpuError(f"{uuid}: {len(fitting)} of this machine's {len(handles)} GPUs have a UUID like this")
    return fitting[0]


def _by_torch(number: int | None) -> tuple[int, str]:
    """Return CUDA's number of the GPU meant, and its UUID where torch uses CUDA in this process already (else "")."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return number or 0, ""
    number = cuda.current_device() if number is None else number
    if not 0 <= number < cuda.device_count():
        raise NoGpuError(f"GPU {number} is asked for, and {cuda.device_count()} are visible")
    return number, f"GPU-{getattr(cuda.get_device_properties(number), 'uuid', '')}"
