"""The physical GPU of a CUDA number, which depends on CUDA_VISIBLE_DEVICES.

The device lock, the watch on contention and the measurement of energy all use this module, so that they mean the same
GPU. ``pynvml`` (nvidia-ml-py) has the UUIDs; torch is used only if it uses CUDA already.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

HIDDEN = {"", "NoDevFiles"}
"""Entries of CUDA_VISIBLE_DEVICES after which no GPU is visible."""
_uuids: dict[tuple[object, ...], tuple[str, ...]] = {}
"""Cache of UUIDs: a call of NVML takes a moment, and a device is locked thousands of times."""


class NoGpuError(RuntimeError):
    """There is no GPU, or it is not clear which one is meant; the message is the reason."""


def uuids_of(number: int = 0, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the UUID of a physical GPU, or the UUIDs of all GPUs if it is not clear which one is meant.

    A MIG instance counts as its GPU, with which it shares power and clocks.

    Args:
        number: CUDA's number of the GPU in this process.
        environ: environment with CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER.

    Returns:
        The UUIDs; empty if NVML is missing.
    """
    try:
        library, known = nvml(), _by_torch(number)[1]
        order = (environ.get("CUDA_VISIBLE_DEVICES"), environ.get("CUDA_DEVICE_ORDER"))
        key = (library, number, known, *order)
        if key not in _uuids:
            with started(library):
                _uuids[key] = _uuids_of(library, number, environ)
        return _uuids[key]
    except NoGpuError:
        return ()


def nvml() -> Any:
    """Return the module ``pynvml``.

    Raises:
        NoGpuError: ``pynvml`` is not installed.
    """
    try:
        import pynvml
    except ImportError:
        raise NoGpuError("pynvml (nvidia-ml-py) is not installed") from None
    return pynvml


@contextmanager
def started(library: Any) -> Iterator[None]:
    """Keep NVML open; it counts its users, so that blocks may be nested.

    Raises:
        NoGpuError: there is no driver, or it does not answer.
    """
    try:
        library.nvmlInit()
    except errors_of(library) as error:
        missing = "no NVIDIA driver is installed (libnvidia-ml.so.1 is not found)"
        is_missing = "not found" in str(error).lower()
        raise NoGpuError(missing if is_missing else f"NVML: {str(error).lower()}") from None
    try:
        yield
    finally:
        with suppress(*errors_of(library)):
            library.nvmlShutdown()


def errors_of(library: Any) -> tuple[type[Exception], ...]:
    """Return the classes of the library's errors."""
    mismatch = getattr(library, "NVMLLibraryMismatchError", library.NVMLError)
    return (library.NVMLError, mismatch)


def handle_of(library: Any, device: int | str | None, environ: Mapping[str, str]) -> Any:
    """Return NVML's handle of a GPU; numbers of CUDA and of NVML may differ.

    Args:
        library: the open NVML.
        device: CUDA's number of the GPU in this process, or its UUID (the beginning is enough); None is the GPU that
            torch uses at the moment, or the first visible one.
        environ: environment with CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER.

    Raises:
        NoGpuError: there is no GPU, or it is not clear which one is meant.
    """
    handles, uuids = _all(library)
    try:
        names = {library.nvmlDeviceGetName(handle) for handle in handles}
    except errors_of(library) as error:
        raise NoGpuError(f"NVML: {str(error).lower()}") from None
    if isinstance(device, str):
        return _by_uuid(library, device, handles, uuids)
    number, known = _by_torch(device)
    if known in uuids:  # the UUID of a MIG instance is not among them
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
        with suppress(AttributeError, *errors_of(library)):  # a library without MIG
            answer = library.nvmlDeviceIsMigDeviceHandle(handle)
            if int(getattr(answer, "value", answer)):  # some versions give a ctypes number
                handle = library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        return (str(library.nvmlDeviceGetUUID(handle)),)
    return tuple(sorted(every))


def _all(library: Any) -> tuple[list[Any], list[str]]:
    """Return the handles of the machine's GPUs and their UUIDs.

    Raises:
        NoGpuError: there is no GPU, or NVML fails.
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
    """Return the entry of CUDA_VISIBLE_DEVICES for CUDA's GPU ``number``: an index of the machine's GPUs, or a UUID.

    Like for CUDA, the list ends before the first index that does not exist.

    Raises:
        NoGpuError: fewer GPUs are visible.
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
    """Return the handle of the GPU, or of the MIG instance, whose UUID begins with this text.

    Raises:
        NoGpuError: there is no such GPU, or there are several.
    """
    if uuid.startswith("MIG-"):
        try:
            return library.nvmlDeviceGetHandleByUUID(uuid)
        except errors_of(library) as error:
            raise NoGpuError(f"{uuid}: NVML: {str(error).lower()}") from None
    matches = [handle for handle, one in zip(handles, uuids, strict=True) if one.startswith(uuid)]
    if len(matches) != 1:
        raise NoGpuError(f"{uuid}: {len(matches)} of this machine's {len(handles)} GPUs have a UUID like this")
    return matches[0]


def _by_torch(number: int | None) -> tuple[int, str]:
    """Return CUDA's number of a GPU, and its UUID if torch uses CUDA in this process already, else an empty text."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return number or 0, ""
    number = cuda.current_device() if number is None else number
    if not 0 <= number < cuda.device_count():
        raise NoGpuError(f"GPU {number} is asked for, and {cuda.device_count()} are visible")
    return number, f"GPU-{getattr(cuda.get_device_properties(number), 'uuid', '')}"
