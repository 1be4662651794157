"""Archives made to do harm: each is refused with one line, and nothing lies where it should not."""

from __future__ import annotations

import io
import random
import shutil
import stat
import struct
import tarfile
import tracemalloc
import zipfile

import pytest

from paretune.core.errors import UserError
from paretune.data.download.extract import unpack


def tar_of(*members):
    """Members are names, TarInfo, or (name, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, content = member if isinstance(member, tuple) else (member, b"x")
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def special(kind, name="bad", target="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_of(*members):
    """Members are names, or (name, content, Unix mode)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            name, content, mode = member if isinstance(member, tuple) else (member, b"x", 0o644 | stat.S_IFREG)
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue()


def with_size(content, told):
    """A zip archive whose only member announces another size than it has."""
    at = content.index(b"PK\x01\x02")
    changed = bytearray(content)
    changed[at + 24 : at + 28] = struct.pack("<I", told)
    changed[22:26] = struct.pack("<I", told)
    return bytes(changed)


def with_flag(content):
    """The same archive, marked as encrypted."""
    changed = bytearray(content)
    at = content.index(b"PK\x01\x02")
    changed[at + 8] |= 1
    changed[6] |= 1
    return bytes(changed)


def tar_with_size(field):
    """A tar archive whose header has another size field, its checksum mended."""
    content = bytearray(tar_of("a", "b"))
    content[124:136] = field
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


ATTACKS = {
    "tar: dots": (".tar", tar_of("good", "../outside")),
    "tar: dots within": (".tar", tar_of("good", "a/../../outside")),
    "tar: absolute": (".tar", tar_of("good", "/tmp/outside")),  # noqa: S108
    "tar: symbolic link": (".tar", tar_of("good", special(tarfile.SYMTYPE))),
    "tar: link, then through it": (".tar", tar_of(special(tarfile.SYMTYPE, "d", ".."), "d/outside")),
    "tar: hard link": (".tar", tar_of("good", special(tarfile.LNKTYPE))),
    "tar: hard link to a member": (".tar", tar_of("good", special(tarfile.LNKTYPE, "bad", "good"))),
    "tar: device": (".tar", tar_of("good", special(tarfile.CHRTYPE))),
    "tar: block device": (".tar", tar_of("good", special(tarfile.BLKTYPE))),
    "tar: pipe": (".tar", tar_of("good", special(tarfile.FIFOTYPE))),
    "tar: file and folder": (".tar", tar_of("good", "good/within")),
    "tar: too many": (".tar", tar_of(*map(str, range(21)))),
    "tar: too large": (".tar", tar_of(("big", bytes(10_001)))),
    "tar: negative size": (".tar", tar_with_size(b"\xff" * 8 + b"\xff\xff\xfc\x00")),
    "tar: enormous size": (".tar", tar_with_size(b"\x80\0\0\0\x7f" + b"\xff" * 7)),
    "tar: truncated": (".tar", tar_of(("a", bytes(9000)))[:5000]),
    "tar: compressed": (".tar", b"\x1f\x8b\x08" + bytes(100)),
    "tar: nothing": (".tar", b""),
    "zip: dots": (".zip", zip_of("good", "../outside")),
    "zip: absolute": (".zip", zip_of("good", "/tmp/outside")),  # noqa: S108
    "zip: symbolic link": (".zip", zip_of("good", ("bad", b"/etc/passwd", 0o777 | stat.S_IFLNK))),
    "zip: device": (".zip", zip_of("good", ("bad", b"", 0o666 | stat.S_IFCHR))),
    "zip: file and folder": (".zip", zip_of("good", "good/within")),
    "zip: too many": (".zip", zip_of(*map(str, range(21)))),
    "zip: bomb": (".zip", zip_of(("bomb", bytes(50_000_000), 0o644 | stat.S_IFREG))),
    "zip: bomb that announces little": (".zip", with_size(zip_of(("b", bytes(50_000_000), 0)), 100)),
    "zip: encrypted": (".zip", with_flag(zip_of("a"))),
    "zip: truncated": (".zip", zip_of("a", "b")[:-30]),
    "zip: another kind": (".zip", tar_of("a")),
    "zip: nothing": (".zip", b""),
}


@pytest.fixture
def refuse(tmp_path):
    def refuse(suffix, content):
        archive, folder = tmp_path / f"archive{suffix}", tmp_path / "outer/folder"
        archive.write_bytes(content)
        folder.mkdir(parents=True, exist_ok=True)
        said = None
        try:
            unpack(archive, folder, most_bytes=10_000, most_files=20)
        except UserError as error:
            said = str(error)
        assert [path.name for path in (tmp_path / "outer").iterdir()] == ["folder"]
        assert not any(path.is_symlink() for path in folder.rglob("*"))
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 10_000
        shutil.rmtree(folder)
        assert said is None or "\n" not in said
        assert said is None or said.startswith((f"{archive}: ", f"{folder}: "))
        return said

    return refuse


@pytest.mark.timeout(20)
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused(refuse, attack):
    assert refuse(*ATTACKS[attack]) is not None


def test_what_is_refused_by_looking_leaves_nothing(tmp_path):
    (tmp_path / "a.tar").write_bytes(ATTACKS["tar: dots"][1])
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError):
        unpack(tmp_path / "a.tar", tmp_path / "folder", 10_000, 20)
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_bomb_takes_no_memory(refuse):
    tracemalloc.start()
    refuse(*ATTACKS["zip: bomb that announces little"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_special_modes_and_owners_are_not_taken_over(tmp_path):
    info = tarfile.TarInfo("tool")
    info.mode, info.uid = 0o6777, 12345
    (tmp_path / "a.tar").write_bytes(tar_of(info))
    (tmp_path / "folder").mkdir()
    assert unpack(tmp_path / "a.tar", tmp_path / "folder", 100, 10) == ["tool"]
    status = (tmp_path / "folder/tool").stat()
    assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID)


@pytest.mark.timeout(50)
@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_flipped_bytes_never_do_more_than_damage(refuse, suffix):
    chance = random.Random(0)
    good = (tar_of if suffix == ".tar" else zip_of)("a/b", "c")
    outcomes = set()
    for _ in range(200):
        content = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        outcomes.add(refuse(suffix, bytes(content)) is None)
    assert outcomes == {True, False}
