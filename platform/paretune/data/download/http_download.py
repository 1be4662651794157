"""Fetching one file over HTTP: resumed where it was cut, and kept only when it is what it should be."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError
from paretune.data.download.archives import Archive
from paretune.storage.atomic_files import sync

_BLOCK = 1 << 20
_SILENT = 30.0
"""Seconds without a byte after which a connection counts as cut."""
_TRIES = 6
"""Cut connections in a row, none of which brought a byte, after which we give up."""
_MOST_TRIES = 1000
_LONGEST_WAIT = 30.0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP states that may be gone a moment later."""


class _CutError(Exception):
    """The connection failed in a way that another try may mend."""


@dataclass(frozen=True)
class Fetcher:
    """How files are fetched."""

    progress: Callable[[str, int, int], None] = lambda *_: None
    """Called with the file's name, the bytes that are there, and those of the whole file."""
    wait: Callable[[float], None] = time.sleep
    """Called with the seconds before another try."""

    def fetch(self, archive: Archive, url: str, file: Path) -> None:
        """Fetch an archive into ``file``, whole and checked; an earlier call's ``.part`` of it is resumed.

        Raises:
            UserError: the server has no such file or another one, or cannot be reached.
        """
        part = file.with_name(f"{file.name}.part")
        if file.is_file():  # kept from an earlier call
            if _fault(archive, file) is None:
                return
            file.unlink()
        resumed = _size(part) > 0
        self._bring(archive, url, part)
        if resumed and _fault(archive, part):  # begun with another version of the file, or damaged since
            part.unlink()
            self._bring(archive, url, part)
        if fault := _fault(archive, part):
            part.unlink()
            raise UserError(f"{url}: {fault}; nothing of it was kept")
        sync(part)
        part.rename(file)

    def _bring(self, archive: Archive, url: str, part: Path) -> None:
        """Bring ``part`` to the archive's size, however often the connection is cut."""
        failed = 0
        for _ in range(_MOST_TRIES):
            before = _size(part)
            if before == archive.bytes:
                return
            try:
                self._once(archive, url, part)
                reason = "the server ended early"
            except _CutError as error:
                reason = str(error)
            if _size(part) == archive.bytes:
                return
            failed = 0 if _size(part) > before else failed + 1
            if failed >= _TRIES:
                break
            self.wait(min(2.0**failed, _LONGEST_WAIT) if failed else 0.0)
        there = f"{_size(part)} of {archive.bytes} bytes are there; the same command goes on from them"
        raise UserError(f"{url}: cannot be fetched ({reason}); {there}")

    def _once(self, archive: Archive, url: str, part: Path) -> None:
        """Open one connection, and take what it gives."""
        start = _size(part)
        if start > archive.bytes:
            part.unlink()
            start = 0
        headers = {"User-Agent": "paretune", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with _opened(url, headers, part) as answer:
            if answer.status == http.client.PARTIAL_CONTENT:
                _check_range(answer, archive, url, start)
            else:  # the whole file: the server cannot resume
                start = 0
                _check_length(answer, archive, url)
            blocks = self._blocks(answer, archive, url, start)
            try:
                with part.open("ab") as file:
                    file.truncate(start)
                    for block in blocks:
                        file.write(block)
            except OSError as error:  # the disk's: the network's are cuts by now
                raise UserError(f"{part}: cannot be written ({error.strerror})") from error

    def _blocks(self, answer: Any, archive: Archive, url: str, there: int) -> Iterator[bytes]:
        """Yield what the server sends, never more than the archive's size."""
        while True:
            try:
                block = answer.read1(_BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise _CutError(_reason(error)) from error
            if not block:
                return
            there += len(block)
            if there > archive.bytes:
                raise UserError(f"{url}: the server sends more than the {archive.bytes} bytes of {archive.name}")
            yield block
            self.progress(archive.name, there, archive.bytes)


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but not from HTTPS to what anybody may change on the way."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise UserError(f"{req.full_url}: it redirects to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _opened(url: str, headers: dict[str, str], part: Path) -> Iterator[Any]:
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme is checked where the URL is made
    try:
        with urllib.request.build_opener(_NoDowngrade).open(request, timeout=_SILENT) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
            raise _CutError("the server has fewer bytes than are there already") from error
        if error.code in _PASSING:
            raise _CutError(f"HTTP {error.code} {error.reason}") from error
        raise UserError(f"{url}: HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise _CutError(_reason(error)) from error


def _check_range(answer: Any, archive: Archive, url: str, start: int) -> None:
    """Raise an error unless the server sends the part that begins at ``start``."""
    sent = answer.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", sent.strip())
    if match is None or int(match[1]) != start or match[3] not in ("*", str(archive.bytes)):
        raise UserError(
            f"{url}: asked for bytes {start} and on of {archive.bytes}, the server sends {sent or 'others'!r}"
        )


def _check_length(answer: Any, archive: Archive, url: str) -> None:
    length = answer.headers.get("Content-Length")
    if length is not None and length != str(archive.bytes):
        raise UserError(f"{url}: the server's file has {length} bytes, expected {archive.bytes}: it is another file")


def _fault(archive: Archive, path: Path) -> str | None:
    """Return what is wrong with a fetched file, or None."""
    if _size(path) != archive.bytes:
        return f"{_size(path)} bytes, expected {archive.bytes}"
    with path.open("rb") as content:
        md5 = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return None if md5 == archive.md5 else f"its md5 is {md5}, expected {archive.md5}: another content"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)
