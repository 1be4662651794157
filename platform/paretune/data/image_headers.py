"""Kind, size and EXIF orientation of an image file, read from its first bytes."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from paretune.core.errors import UserError

KINDS = {
    "AVIF": frozenset({".avif"}),
    "BMP": frozenset({".bmp", ".dib"}),
    "HEIF": frozenset({".heic", ".heif", ".hif"}),
    "JPEG": frozenset({".jfi", ".jfif", ".jif", ".jpe", ".jpeg", ".jpg", ".mpo"}),
    "PNG": frozenset({".png"}),
    "TIFF": frozenset({".tif", ".tiff"}),
    "WEBP": frozenset({".webp"}),
}
"""Kinds of images that are read, by Pillow's name, each with its files' endings in small letters."""
SUFFIXES = frozenset[str]().union(*KINDS.values())
"""Endings of the files that are taken for images."""
MOST_PIXELS = 80_000_000
"""A larger picture is refused before it is decoded: a small file can hold a huge one."""
HEIF_READERS = ("pi_heif", "pillow_heif")
"""Packages that let Pillow read HEIC, the first that is installed; the first only decodes, without a GPL library."""
_NEEDED = {
    "AVIF": "AVIF: this Pillow does not read it; `pip install -U pillow` (11.3 or newer)",
    "HEIF": "HEIC: nothing is installed that reads it; `pip install pi-heif`",
}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIF"
)
"""The brand in the first box of an ISO base media file (ISO 14496-12) → its kind."""
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
"""Tags of TIFF and EXIF."""
_ON_ITS_SIDE = range(5, 9)
"""Values of EXIF's orientation that exchange width and height."""
_TAIL = 65_536
"""Bytes at the end of a PNG file in which EXIF is looked for: some programs write it behind the pixels."""


@dataclass(frozen=True)
class ImageHeader:
    """Kind, size and orientation of an image file."""

    stored_size: tuple[int, int]
    """(width, height) as the pixels are stored."""
    kind: str
    """``JPEG``, ``PNG``, …, by its content, whatever its name."""
    orientation: int
    """EXIF's, 1 to 8: how the stored pixels become the picture that was seen; 1 where nothing is to be done."""
    alpha: bool
    """Some pixels may be transparent."""

    def turned(self, annotated: tuple[int, int] | None) -> bool:
        """Return whether the picture is turned as EXIF asks: unless its annotation gives the size of the unturned one.

        Args:
            annotated: (width, height) in the annotation, if it has any.
        """
        return self.orientation != 1 and not annotated == self.stored_size != self.turned_size

    @property
    def turned_size(self) -> tuple[int, int]:
        """(width, height) of the picture turned as EXIF asks."""
        return self.stored_size[::-1] if self.orientation in _ON_ITS_SIDE else self.stored_size

    def size(self, annotated: tuple[int, int] | None) -> tuple[int, int]:
        """Return (width, height) of the picture as it is read; ``annotated`` as for ``turned``."""
        return self.turned_size if self.turned(annotated) else self.stored_size


def read_header(path: Path, file: IO[bytes]) -> ImageHeader:
    """Read an image file's header without decoding it; ``path`` is for the message.

    Raises:
        UserError: no image, too large, or of a kind that nothing installed can read.
    """
    from PIL import Image as Pillow

    warnings.filterwarnings("ignore", module=r"PIL\.")  # what hinders reading is told here, in one line
    try:
        with Pillow.open(file, formats=_readable()) as picture:
            header = _header(picture, file)
    except Pillow.DecompressionBombError as error:
        raise UserError(f"{path}: too many pixels; at most {MOST_PIXELS // 10**6} million are read") from error
    except Exception as error:  # a damaged header makes the decoders of Pillow raise anything
        if (tiff := _of_tags(file)) is None:
            raise UserError(f"{path}: {_reason(file)}") from error
        header = tiff
    width, height = header.stored_size
    if width * height > MOST_PIXELS:
        raise UserError(f"{path}: {width} x {height} pixels; at most {MOST_PIXELS // 10**6} million are read")
    return header


@cache
def _readable() -> list[str]:
    """Return the kinds that Pillow can read here, after it has learnt of HEIC where a reader is installed."""
    from PIL import Image as Pillow

    for name in HEIF_READERS:
        try:
            import_module(name).register_heif_opener()
        except ImportError:
            continue
        break
    Pillow.init()
    return [kind for kind in KINDS if kind in Pillow.OPEN]


def _header(picture: Any, file: IO[bytes]) -> ImageHeader:
    kind = "JPEG" if picture.format == "MPO" else str(picture.format)
    orientation = _orientation(picture, kind, file)
    size = picture.size
    if kind == "TIFF" and orientation in _ON_ITS_SIDE:
        size = size[::-1]  # Pillow tells the turned size of this kind alone
    alpha = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
    return ImageHeader(size, kind, orientation, alpha)


def _of_tags(file: IO[bytes]) -> ImageHeader | None:
    """Return the header of a TIFF file of samples that Pillow does not know, such as floats of three channels."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        file.seek(0)
        tags = ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        width, height, orientation = (tags.get(tag, 1) for tag in (_WIDTH, _HEIGHT, _ORIENTATION))
    except Exception:  # noqa: BLE001 - no TIFF, or damaged: Pillow raises anything
        return None
    good = all(isinstance(side, int) and side > 0 for side in (width, height)) and _WIDTH in tags and _HEIGHT in tags
    return ImageHeader((width, height), "TIFF", _valid(orientation), alpha=False) if good else None


def _orientation(picture: Any, kind: str, file: IO[bytes]) -> int:
    """Return EXIF's orientation (XMP's where EXIF has none); 1 where it is damaged: the pixels may be right."""
    from PIL import Image as Pillow

    try:
        if kind == "PNG" and "exif" not in picture.info and not _exif_behind(file):
            exif = Pillow.Image.getexif(picture)  # PNG's own looks behind the pixels, and decodes them for that
        else:
            exif = picture.getexif()
        return _valid(exif.get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF makes Pillow raise anything
        return 1


def _valid(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _exif_behind(file: IO[bytes]) -> bool:
    place = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - _TAIL))
    has_exif = b"eXIf" in file.read(_TAIL)
    file.seek(place)
    return has_exif


def _reason(file: IO[bytes]) -> str:
    """Return why Pillow does not open a file."""
    try:
        file.seek(0)
        start = file.read(12)
    except (OSError, ValueError):  # Pillow has closed it
        start = b""
    kind = _BRANDS.get(start[8:12], "") if start[4:8] == b"ftyp" else ""
    if kind and not _can_read(kind):
        return _NEEDED[kind]
    return f"not an image of a known kind ({', '.join(sorted(SUFFIXES))}), or damaged"


def _can_read(kind: str) -> bool:
    from PIL import features

    return kind in _readable() and (kind != "AVIF" or bool(features.check("avif")))
