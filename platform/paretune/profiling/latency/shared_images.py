"""The images of a measurement in one file, which all measuring processes map, so that they share one copy.

The file holds arrays as ``numpy.save`` writes them, each at a multiple of ``ALIGNED`` bytes.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, overload

import numpy as np

from paretune.core.errors import UserError
from paretune.core.types import MEASURED_IMAGES, Image, Split

ALIGNED = 64


@contextmanager
def saved_images(images: Sequence[Image] | Path) -> Iterator[Path]:
    """Yield the path of a file with the images, which every worker maps; a path is such a file already.

    Images are taken one after the other and none is kept, so that a sequence that decodes them needs memory for one.

    Raises:
        ValueError: there are no images.
        UserError: the folder for temporary files has no room for them.
    """
    if isinstance(images, Path):
        yield images
        return
    if not len(images):
        raise ValueError("at least one image is needed to measure on")
    with _writing(images):
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it is closed below
    with file:  # it has no name: nothing is left behind, however this process ends
        _fill(file, images)
        yield Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")


def mapped_images(file: Path) -> tuple[list[Image], int]:
    """Map a file of ``saved_images`` with all its pages, so that no timed inference waits for one.

    Returns:
        The images, which are read-only, and the bytes that the kernel counts as this process's memory, though all
        processes that map the file share them.
    """
    images: list[Image] = []
    with file.open("rb") as opened:
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        mapped = mmap.mmap(opened.fileno(), 0, flags=flags, prot=mmap.PROT_READ)
        while opened.seek(_aligned(opened.tell())) < len(mapped):
            np.lib.format.read_magic(opened)
            shape, _, kind = np.lib.format.read_array_header_1_0(opened)
            images.append(np.ndarray(shape, kind, mapped, opened.tell()))
            opened.seek(images[-1].nbytes, os.SEEK_CUR)
    return images, -(-len(mapped) // mmap.PAGESIZE) * mmap.PAGESIZE


def few_images(facts: Mapping[str, Any]) -> list[str]:
    """Return a remark that there were fewer images than usual; none if there were enough, or it is not known."""
    count = facts.get("images", MEASURED_IMAGES)
    if count >= MEASURED_IMAGES:
        return []
    return [f"few_images: measured on {count} {'image' if count == 1 else 'images'}, {MEASURED_IMAGES} are usual"]


def _fill(file: IO[bytes], images: Sequence[Image]) -> None:
    for image in images:
        with _writing(images):
            _append(file, image)


def _append(file: IO[bytes], image: Image) -> None:
    whole, header = np.ascontiguousarray(image), BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(whole))
    file.seek(_aligned(file.tell()))
    for part in (header.getbuffer(), whole.data.cast("B")):
        done = 0
        while done < len(part):  # a full disk writes a part first, and then raises
            done += file.write(part[done:])


def _aligned(place: int) -> int:
    return -(-place // ALIGNED) * ALIGNED


@contextmanager
def _writing(images: Sequence[Image]) -> Iterator[None]:
    """Raise a failure to write as a ``UserError`` with the folder and the room that is needed."""
    try:
        yield
    except OSError as error:
        room = f"{len(images)} images to measure on need {sum(image.nbytes for image in images) / 2**20:.0f} MiB there"
        raise UserError(
            f"{tempfile.tempdir or 'temporary files'}: {room}, and they cannot be written ({error.strerror}); "
            "make room, or set TMPDIR to a folder that has it"
        ) from error


class _Decoded(Sequence[Image]):
    """Images of a split, each decoded on access and not kept, as photographs would fill the memory."""

    def __init__(self, split: Split, indices: range) -> None:
        self._split, self._indices = split, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Image: ...

    @overload
    def __getitem__(self, index: slice) -> _Decoded: ...

    def __getitem__(self, index: int | slice) -> Image | _Decoded:
        if isinstance(index, slice):
            return _Decoded(self._split, self._indices[index])
        return self._split.image(self._indices[index])


def measuring_images(split: Split) -> Sequence[Image]:
    """Return the images on which artefacts are measured: the first ones of a split, each decoded on access.

    A sweep takes the split ``val``.
    """
    return _Decoded(split, range(min(MEASURED_IMAGES, len(split))))
