"""A secret in the environment and in addresses, looked for in every byte that a sweep leaves and prints."""

from __future__ import annotations

import base64
import functools
import io
import os
import re
import shutil
import sqlite3
import subprocess
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import faults_forked as forked
import faults_sweep
from faults_place import Bench
from faults_sweep import NAME, Place, new_place
from figures import Figures
from tracking_servers import FaultyServer, mlflow_server

CANARY = "canary+4711/zzq"
VARIABLES = (
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    *("GITHUB_TOKEN", "PGPASSWORD", "AZURE_STORAGE_ACCESS_KEY"),
)
PACKED = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")


def environment(uri: str | None) -> dict[str, str]:
    """Return variables with the secret, among them an address of the log."""
    variables = dict.fromkeys(VARIABLES, CANARY)
    if uri is not None:
        variables["MLFLOW_TRACKING_URI"] = uri.replace("://", f"://me:{quote(CANARY, safe='')}@")
    return variables


def forms() -> list[bytes]:
    """Return the secret as it is, as in URLs, as in JSON, and as part of a text in base64 at each of three places."""
    texts = [CANARY, quote(CANARY), quote(CANARY, safe=""), CANARY.replace("/", "\\/")]
    shifted = [base64.b64encode(b"x" * shift + CANARY.encode())[4:-4] for shift in range(3)]
    return [text.encode() for text in texts] + shifted


def contents(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """Yield data, and what is packed in it: members of a ZIP, compressed text, all rows of a database."""
    yield data
    if depth > 3:
        return
    if data[:4] == b"PK\x03\x04":
        with suppress(zipfile.BadZipFile, RuntimeError), zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from contents(archive.read(name), depth + 1)
    for kind in (15, 31, -15):  # zlib, gzip, bare
        with suppress(zlib.error):
            yield from contents(zlib.decompress(data, kind), depth + 1)
            break
    for found in PACKED.findall(data) if len(data) < 1 << 22 else ():
        with suppress(ValueError):
            yield from contents(base64.b64decode(found, validate=True), depth + 1)


def leaks(folder: Path, *printed: str) -> list[str]:
    """Return the files and the printed texts in which the secret is."""
    known, found = forms(), list[str]()
    texts = {f"printed text {place}": text.encode() for place, text in enumerate(printed)}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.is_symlink():
            texts[str(file.relative_to(folder))] = file.read_bytes()
            if file.suffix == ".db":
                with closing(sqlite3.connect(file)) as database, suppress(sqlite3.DatabaseError):
                    texts[f"{file.name}, rows"] = "\n".join(database.iterdump()).encode()
    for name, text in texts.items():
        if any(form in part for part in (name.encode(), *contents(text)) for form in known):
            found.append(name)
    return found


def failing(uri: str | None, dead: bool) -> None:
    """Let trial 3 fail with an error that holds secrets, as those of libraries do."""
    os.environ |= environment(uri)
    if dead:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "2"
    real = faults_sweep.cheap_evaluate

    def evaluate(context: Any, number: int, built: Any) -> Any:
        if number == 3:
            raise RuntimeError(
                f"401 of https://me:{quote(CANARY)}@hub/f?token={quote(CANARY)} with {os.environ['HF_TOKEN']}"
            )
        return real(context, number, built)

    faults_sweep.cheap_evaluate = evaluate  # type: ignore[assignment]


def printed(place: Place, uri: str | None, *words: str, dead: bool = False) -> str:
    """Run a command with the secrets, and return all that it prints."""
    return forked.run(place, *words, prepare=functools.partial(failing, uri, dead), limit=200).text


def planted(folder: Path) -> int:
    """Return in how many of the planted places the search does not find the secret: none if it can be trusted."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", f"x{CANARY}" * 20)
    with closing(sqlite3.connect(folder / "a.db")) as database:
        database.execute("CREATE TABLE t (a TEXT)")
        database.execute("INSERT INTO t VALUES (?)", (CANARY,))
        database.commit()
    (folder / "view.json").write_bytes(b'"deflate;' + base64.b64encode(zlib.compress(f"a {CANARY} b".encode())) + b'"')
    (folder / "basic.txt").write_bytes(base64.b64encode(f"me:{CANARY}".encode()))
    (folder / "url.txt").write_text(quote(CANARY, safe=""))
    names = {name.partition(",")[0] for name in leaks(folder)}
    missed = {file.name for file in folder.iterdir()} - names
    shutil.rmtree(folder)
    return len(missed)


def refused(bench: Bench) -> list[str]:
    """Return the fields in which a job may hold the secret, or that are printed with it."""
    wrong = []
    for field, text in {
        "tracking": "tracking: {{uri: 'http://me:{}@127.0.0.1:9'}}",
        "store": "store: {{url: 's3://key:{}@bucket/store'}}",
        "dataset": "dataset: {{yolo: {{root: 'https://me:{}@data.example/set.zip'}}}}",
        "signed": "store: {{url: 'https://b.example/f?X-Amz-Signature={}'}}",
    }.items():
        place = bench.fresh()
        job = place.folder / f"{NAME}.yaml"
        kept = [line for line in job.read_text().splitlines() if not line.startswith(f"{field}:")]
        job.write_text("\n".join([*kept, text.format(quote(CANARY, safe="")), ""]))
        done = forked.run(place, "sweep", f"{NAME}.yaml")
        job.unlink()
        wrong += [] if done.code == 2 and not (place.sweep).exists() else [f"{field} is taken"]
        wrong += [f"{field}: {name}" for name in leaks(place.folder)]
    return wrong


def add(figures: Figures, name: str, found: list[str]) -> None:
    """Add how often the secret was found."""
    for line in found:
        print(f"    {name}: {line}", flush=True)
    figures.add(f"secrets, {name}: found", len(found), at_most=0)


def short(figures: Figures, bench: Bench) -> None:
    """Look for the secret after a sweep with a database, and one with a server that is not there."""
    figures.add("secrets: planted ones that the search misses", planted(bench.folder / "planted"), at_most=0)
    place = bench.fresh()
    add(figures, "a database", leaks(place.folder, printed(place, None, "sweep", f"{NAME}.yaml")))
    with FaultyServer(None).listening() as server:
        server.fault = "reset"
        place = bench.fresh()
        said = printed(place, server.uri, "sweep", f"{NAME}.yaml", dead=True)
    figures.add("secrets: lines about the server that is not there", said.count("MLflow cannot be written"), at_least=1)
    add(figures, "a server that is not there", leaks(place.folder, said))
    add(figures, "a job that holds one", refused(bench))


def whole(figures: Figures, folder: Path) -> None:
    """Look for the secret after sweeps with a database, without and with a server, and after one by Ray."""
    bench = Bench(folder / "secrets")
    short(figures, bench)
    place = bench.fresh()
    with mlflow_server(place.runs) as server:
        said = [printed(place, server.uri, *words) for words in (("sweep", f"{NAME}.yaml"), ("sync", NAME))]
    add(figures, "a server", leaks(place.folder, *said))
    shutil.rmtree(folder / "ray", ignore_errors=True)
    place = new_place(folder / "ray", trials=4)
    process = place.start("sweep", f"{NAME}.yaml", **environment(None))
    try:
        said = list(process.communicate(timeout=300))
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    figures.add("secrets, a sweep by Ray: exit code", process.returncode, at_most=0)
    add(figures, "a sweep by Ray", leaks(place.folder, *said))
