"""Fetching archives from a server on loopback that cuts, lies and swaps; installing what it gives."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from paretune.cli import main as cli
from paretune.core.errors import UserError
from paretune.data.download import install
from paretune.data.download.archives import ARCHIVES, Archive
from paretune.data.download.http_download import Fetcher, _NoDowngrade
from paretune.data.download.install import download

FILES = {"train/a.jpg": b"a" * 3000, "train/b.jpg": np.random.default_rng(0).bytes(50_000), "lists/all.txt": b"a\nb\n"}


def zipped(files=FILES):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # not stamped with the clock
    return buffer.getvalue()


def tarred(files=FILES):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``content`` with the vices that a test gives it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = {}
        self.requests = []
        self.cut_after = None  # bytes of each answer after which the connection is cut
        self.ranges = True
        self.length = len  # what Content-Length says of the bytes that follow
        self.states = []  # HTTP states of the next answers
        self.shift = 0  # added to the start in Content-Range

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/mirror"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        state = server.states.pop(0) if server.states else 200
        name = self.path.rpartition("/")[2]
        if state != 200 or name not in server.content:
            self.send_error(state if state != 200 else 404)
            return
        content, start = server.content[name], 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and server.ranges:
            start = int(wanted[1])
            self.send_response(206)
            shown = start + server.shift
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        told = server.length(body)
        if told is not None:
            self.send_header("Content-Length", str(told))
        self.end_headers()
        self.wfile.write(body[: server.cut_after])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(install.os, "sync", lambda: None)  # it would wait for all that others have written
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def row(name, content, part="one", most_bytes=10**6, most_files=100):
    known = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Archive(part, f"https://example.invalid/{name}", len(content), known, most_bytes, most_files)


def run(server, tmp_path, *rows, **options):
    """Download into ``tmp_path/data``; returns the lines told and the seconds waited."""
    lines, waits = [], []
    fetcher = Fetcher(wait=waits.append)
    download(
        "toy", tmp_path / "data", base=server.url, fetcher=fetcher, tell=lines.append, table={"toy": rows}, **options
    )
    return lines, waits


def refused(server, tmp_path, *rows, **options):
    with pytest.raises(UserError) as caught:
        run(server, tmp_path, *rows, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert there(tmp_path) == {}
    return text


def there(tmp_path):
    """What lies in the dataset's folder, without the archives."""
    root = tmp_path / "data"
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {str(path): (root / path).read_bytes() for path in files if path.parts[0] != "archives"}


@pytest.fixture
def archive(server):
    server.content["toy.zip"] = zipped()
    return row("toy.zip", zipped())


@pytest.mark.parametrize(("name", "make"), [("toy.zip", zipped), ("toy.tar", tarred)])
def test_fetched_checked_and_unpacked(server, tmp_path, name, make):
    server.content[name] = make()
    lines, waits = run(server, tmp_path, row(name, make()))
    assert there(tmp_path) == FILES
    assert waits == []
    assert "not encrypted; checked by its md5" in lines[0]
    archives = tmp_path / "data/archives"
    assert sorted(path.name for path in archives.iterdir()) == [".lock", f"{name}.unpacked"]


def test_the_archive_is_kept_when_asked(server, tmp_path, archive):
    run(server, tmp_path, archive, keep=True)
    assert (tmp_path / "data/archives/toy.zip").read_bytes() == zipped()


def test_what_is_there_is_not_fetched_again(server, tmp_path, archive):
    run(server, tmp_path, archive)
    lines, _ = run(server, tmp_path, archive)
    assert lines == ["one: is there already"]
    assert len(server.requests) == 1
    for path in (tmp_path / "data/lists").iterdir():
        path.unlink()
    (tmp_path / "data/lists").rmdir()
    run(server, tmp_path, archive)
    assert there(tmp_path) == FILES


def test_a_cut_connection_is_gone_on_with(server, tmp_path, archive):
    server.cut_after = 20_000
    _, waits = run(server, tmp_path, archive)
    assert there(tmp_path) == FILES
    assert [wanted for _, wanted in server.requests] == [None, "bytes=20000-", "bytes=40000-"]
    assert not any(waits)  # every connection brought something


def test_a_killed_download_is_gone_on_with(server, tmp_path, archive):
    archives = tmp_path / "data/archives"
    archives.mkdir(parents=True)
    (archives / "toy.zip.part").write_bytes(zipped()[:777])
    (archives / "toy.zip.unpacking").mkdir()
    (archives / "toy.zip.unpacking/half").write_text("of a killed process")
    run(server, tmp_path, archive)
    assert there(tmp_path) == FILES
    assert server.requests == [("/mirror/toy.zip", "bytes=777-")]


def test_a_server_without_ranges_starts_again(server, tmp_path, archive):
    archives = tmp_path / "data/archives"
    archives.mkdir(parents=True)
    (archives / "toy.zip.part").write_bytes(b"x" * 777)
    server.ranges = False
    run(server, tmp_path, archive)
    assert there(tmp_path) == FILES


def test_another_version_meanwhile_is_fetched_from_its_start(server, tmp_path, archive):
    server.cut_after = 20_000
    server.content["toy.zip"] = bytes(len(zipped()))
    run_once = Fetcher(wait=lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    part = tmp_path / "data/archives/toy.zip.part"
    part.parent.mkdir(parents=True)
    run_once._once(archive, f"{server.url}/toy.zip", part)
    assert part.stat().st_size == 20_000
    server.cut_after, server.content["toy.zip"] = None, zipped()
    run(server, tmp_path, archive)
    assert there(tmp_path) == FILES
    assert [wanted for _, wanted in server.requests] == [None, "bytes=20000-", None]


def test_a_damaged_beginning_is_thrown_away(server, tmp_path, archive):
    archives = tmp_path / "data/archives"
    archives.mkdir(parents=True)
    (archives / "toy.zip.part").write_bytes(b"x" * 777)
    run(server, tmp_path, archive)
    assert there(tmp_path) == FILES
    assert [wanted for _, wanted in server.requests] == ["bytes=777-", None]


def test_a_part_that_is_too_long_is_thrown_away(server, tmp_path, archive):
    archives = tmp_path / "data/archives"
    archives.mkdir(parents=True)
    (archives / "toy.zip.part").write_bytes(b"x" * 10**6)
    run(server, tmp_path, archive)
    assert there(tmp_path) == FILES


def test_a_server_that_never_ends_its_answer_well(server, tmp_path, archive):
    server.cut_after = 0
    text = refused(server, tmp_path, archive)
    assert f"0 of {archive.bytes} bytes are there; the same command goes on" in text
    assert len(server.requests) == 6


def test_waits_grow_while_nothing_comes(server, tmp_path, archive):
    server.states = [503, 500, 429]
    _, waits = run(server, tmp_path, archive)
    assert waits == [2, 4, 8]
    assert there(tmp_path) == FILES


def test_no_server_at_all(server, tmp_path, archive):
    lost = Server()
    lost.server_close()
    assert "refused" in refused(lost, tmp_path, archive)


@pytest.mark.parametrize("state", [401, 403, 404, 410])
def test_what_is_not_there_is_told_at_once(server, tmp_path, archive, state):
    server.states = [state] * 9
    assert f"HTTP {state}" in refused(server, tmp_path, archive)
    assert len(server.requests) == 1


@pytest.mark.parametrize("by", [-1000, 1000])
def test_another_length_is_another_file(server, tmp_path, archive, by):
    server.length = lambda body: len(body) + by
    assert f"has {archive.bytes + by} bytes, expected {archive.bytes}" in refused(server, tmp_path, archive)


def test_more_bytes_than_announced(server, tmp_path, archive):
    server.length = lambda _: None  # the end of the connection is the end of the file
    server.content["toy.zip"] += b"more"
    assert "sends more than" in refused(server, tmp_path, archive)


def test_a_range_that_begins_elsewhere(server, tmp_path, archive):
    server.cut_after, server.shift = 20_000, 5
    assert "asked for bytes 20000 and on" in refused(server, tmp_path, archive)


def test_another_content_of_the_same_length(server, tmp_path, archive):
    server.content["toy.zip"] = bytes(reversed(zipped()))
    assert "another content; nothing of it was kept" in refused(server, tmp_path, archive)
    assert [path.name for path in (tmp_path / "data/archives").iterdir()] == [".lock"]


def test_redirections_do_not_leave_encryption():
    request = namedtuple("Request", "full_url")("https://a.example/x")  # noqa: PYI024
    with pytest.raises(UserError, match="not encrypted"):
        _NoDowngrade().redirect_request(request, None, 302, "", {}, "http://b.example/x")


# --- the folder --------------------------------------------------------------------------------------


def test_two_archives_share_a_folder(server, tmp_path):
    second = {"train/c.jpg": b"c", "lists/all.txt": FILES["lists/all.txt"], "more/d": b"d"}
    server.content |= {"toy.zip": zipped(), "second.tar": tarred(second)}
    run(server, tmp_path, row("toy.zip", zipped()), row("second.tar", tarred(second), part="two"))
    assert there(tmp_path) == FILES | second


def test_only_the_parts_asked_for(server, tmp_path, archive):
    run(server, tmp_path, row("lost.zip", b"x", part="two"), archive, parts=["one"])
    assert there(tmp_path) == FILES


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_other_files_in_the_way_stay(server, tmp_path, archive, kind):
    place = tmp_path / "data/train/a.jpg"
    place.parent.mkdir(parents=True)
    if kind == "file":
        place.write_text("mine")
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="another file stands there; nothing was unpacked"):
        run(server, tmp_path, archive)
    assert not (tmp_path / "data/lists").exists()
    assert not (tmp_path / "outside").exists()


def test_no_space(server, tmp_path, archive, monkeypatch):
    usage = namedtuple("Usage", "total used free")  # noqa: PYI024
    monkeypatch.setattr(install.shutil, "disk_usage", lambda _: usage(10**6, 0, 10**6))
    assert "GB are needed there" in refused(server, tmp_path, archive)
    assert server.requests == []


def test_one_at_a_time(server, tmp_path, archive):
    (tmp_path / "data/archives").mkdir(parents=True)
    with install._alone(tmp_path / "data"):
        assert "another process is downloading" in refused(server, tmp_path, archive)
    run(server, tmp_path, archive)


def test_a_file_where_the_folder_should_be(server, tmp_path, archive):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        run(server, tmp_path, archive)


def test_the_command_refuses_a_mirror_with_other_files(server, tmp_path, capsys):
    server.content["VOCtest_06-Nov-2007.tar"] = tarred()
    given = ["data", "download", "voc", str(tmp_path / "data"), "--part", "2007-test", "--from", server.url]
    assert cli.main(given) == 2
    assert f"{len(tarred())} bytes, expected 451020800: it is another file" in capsys.readouterr().err
    assert there(tmp_path) == {}


def test_the_command_from_end_to_end(server, tmp_path, monkeypatch, capsys, archive):
    monkeypatch.setitem(ARCHIVES, "coco", (archive,))
    assert cli.main(["data", "download", "coco", str(tmp_path / "data"), "--from", server.url]) == 0
    assert there(tmp_path) == FILES
    assert "unpacked into" in capsys.readouterr().out


@pytest.mark.slow
def test_the_table_agrees_with_torchvision():
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    for archive in ARCHIVES["voc"]:
        official = DATASET_YEAR_DICT[archive.part]
        assert (archive.url, archive.md5) == (official["url"], official["md5"])
