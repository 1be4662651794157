"""The official archives: a literal table.

Sizes are what the servers announce. COCO's makers publish no checksums; the MD5 sums here are those
that several projects recorded independently for the files served. VOC's are the ones in torchvision.
images.cocodataset.org answers HTTPS with a certificate of another name, hence plain HTTP: its files
are trusted by their checksum alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_COCO = "http://images.cocodataset.org"
_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC"


@dataclass(frozen=True)
class Archive:
    """One archive."""

    part: str
    """The name people give it: ``val2017``."""
    url: str
    bytes: int
    """Size of the archive."""
    md5: str
    """MD5 sum in hex."""
    most_bytes: int
    """Unpacked, it holds less; more is refused."""
    most_files: int

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


ARCHIVES: Mapping[str, tuple[Archive, ...]] = {
    "coco": (
        Archive(
            "annotations",
            f"{_COCO}/annotations/annotations_trainval2017.zip",
            252_907_541,
            "f4bbac642086de4f52a3fdda2de5fa2c",
            2_000_000_000,
            20,
        ),
        Archive(
            "val2017",
            f"{_COCO}/zips/val2017.zip",
            815_585_330,
            "442b8da7639aecaf257c1dceb8ba8c80",
            1_000_000_000,
            6_000,
        ),
        Archive(
            "train2017",
            f"{_COCO}/zips/train2017.zip",
            19_336_861_798,
            "cced6f7f71b7629ddf16f17bbcfab6b2",
            20_000_000_000,
            130_000,
        ),
    ),
    "voc": (
        Archive(
            "2007",
            f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
            460_032_000,
            "c52e279531787c972589f7e41ab4ae64",
            500_000_000,
            30_000,
        ),
        Archive(
            "2007-test",
            f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar",
            451_020_800,
            "b6e924de25625d8de591ea690078ad9f",
            500_000_000,
            30_000,
        ),
        Archive(
            "2012",
            f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
            1_999_639_040,
            "6cd6e144f989b92b3379bac3b3de84fd",
            2_500_000_000,
            80_000,
        ),
    ),
}
"""Dataset → its archives."""
