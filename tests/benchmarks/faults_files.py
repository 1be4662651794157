"""Damaged files, full disks, and two sweeps at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import faults_forked as forked
from faults_checker import SPACE, check, recorded
from faults_kinds import Kind, Outcome
from faults_place import Bench, gone, last
from faults_sweep import NAME, Place

MORE = ("--trials", "9")
"""Options of ``resume`` after a sweep of six trials."""


def finished(bench: Bench) -> Place:
    """Return the place with a whole sweep; it is copied after the first time."""
    kept = bench.folder / "finished"
    place = bench.fresh()
    if kept.is_dir():
        shutil.rmtree(place.folder)
        shutil.copytree(kept, place.folder)
        return place
    ended = forked.run(place, "sweep", f"{NAME}.yaml")
    wrong = [] if ended.code else [*gone(place), *check(place, trials=bench.trials)]
    if ended.code or wrong:
        raise RuntimeError(f"the sweep without a fault: {ended.text} {wrong}")
    shutil.copytree(place.folder, kept)
    return place


def flip(bench: Bench, file: Path, number: int) -> str:
    """Change one byte of a file, drawn by the dice, and return which."""
    body = bytearray(file.read_bytes())
    place = bench.dice(file.name, number).randrange(len(body))
    body[place] ^= 1 << bench.dice("bit", number).randrange(8)
    file.write_bytes(body)
    return f"byte {place} of {file.name}"


def cut(bench: Bench, file: Path, number: int) -> str:
    """Shorten a file to a length drawn by the dice, and return it."""
    length = bench.dice("cut", number).randrange(file.stat().st_size)
    os.truncate(file, length)
    return f"{file.name} of {length} bytes"


def damaged_record(damage: Callable[[Bench, Path, int], str], bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Damage a record: it is refused by name, and its trial is run again once its folder is removed."""
    for number in range(bench.skip, count or 20):
        place = finished(bench)
        trial = f"{bench.dice('trial', number).randrange(1, bench.trials):04d}"
        seen = {name: body for name, body in recorded(place).items() if name != trial}
        file = place.sweep / "trials" / trial / "record.json"
        moment = f"trial {trial}, {damage(bench, file, number)}"
        refused = forked.run(place, "resume", NAME, *MORE)
        wrong = []
        if refused.code != 2 or "damaged" not in refused.text or trial not in refused.text:
            wrong.append(f"C9: a damaged record: {refused.code}, {last(refused.text)}")
        with suppress(FileNotFoundError):
            shutil.rmtree(file.parent)
        again = bench.ended(place, options=MORE, trials=9)
        wrong += [f"C1: the record of trial {n} has changed" for n, b in seen.items() if recorded(place).get(n) != b]
        yield Outcome(moment, [*wrong, *again])


def damaged_study(damage: Callable[[Bench, Path, int], str], bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Damage the study's database: it is made again from its journal and the records."""
    for number in range(bench.skip, count or 20):
        place = finished(bench)
        moment = damage(bench, place.sweep / "study.db", number)
        yield Outcome(moment, bench.ended(place, options=MORE, trials=9))


def damaged_log(damage: Callable[[Bench, Path, int], str], bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Damage the log's database: the sweep goes on, and is logged again once the database is removed."""
    for number in range(bench.skip, count or 20):
        place = finished(bench)
        moment = damage(bench, place.runs / "mlflow.db", number)
        ended = forked.run(place, "resume", NAME, *MORE)
        wrong = [] if ended.code == 0 else [f"C9: resume ended with {ended.code}: {last(ended.text)}"]
        for file in place.runs.glob("mlflow.db*"):
            file.unlink()
        shutil.rmtree(place.runs / "mlartifacts", ignore_errors=True)
        yield Outcome(moment, [*wrong, *bench.ended(place, partial(forked.run, limit=120), trials=9)])


def damaged_store(damage: Callable[[Bench, Path, int], str], bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Damage every entry of the stage store: each is made again when it is wanted."""
    for number in range(bench.skip, min(count or 6, 6)):
        place = finished(bench)
        for file in sorted((place.runs / "store").glob("??/*/*/*")):
            moment = damage(bench, file, number)
        yield Outcome(f"{moment}, and of the other entries", bench.ended(place, options=MORE, trials=9, store=False))


def damaged_artefact(damage: Callable[[Bench, Path, int], str], bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Damage the reference's artefact: trials that would be measured beside it fail and name it."""
    for number in range(bench.skip, min(count or 6, 6)):
        place = finished(bench)
        file = place.sweep / "trials" / "0001" / "artefact" / ("model.onnx", "artefact.json")[number % 2]
        moment = damage(bench, file, number)
        resumed = bench.ended(place, options=MORE, trials=9, failed=(6, 7, 8))
        known = ("0001", "C3: trial 1: ", "in the log")
        wrong = [line for line in resumed if not any(part in line for part in known)]
        text = "".join((place.sweep / "trials" / f"000{n}" / "record.json").read_text() for n in (6, 7, 8))
        wrong += [] if text.count("0001/artefact") >= 3 else ["C3: a damaged reference was used"]
        yield Outcome(moment, wrong)


def damaged_file(
    name: str, damage: Callable[[Bench, Path, int], str], bench: Bench, count: int | None
) -> Iterator[Outcome]:
    """Damage a file of the sweep that it cannot do without: it is refused in a line that names it, or does no harm."""
    for number in range(bench.skip, min(count or 6, 6)):
        place = finished(bench)
        file = place.sweep / name
        before = file.read_bytes()
        moment = damage(bench, file, number)
        ended = forked.run(place, "resume", NAME, *MORE)
        wrong = []
        if ended.code not in (0, 2) or "Traceback" in ended.text or (ended.code == 2 and file.name not in ended.text):
            wrong.append(f"C9: a damaged {name}: {ended.code}, {last(ended.text)}")
        if ended.code:
            file.write_bytes(before)
            wrong += bench.ended(place, options=MORE, trials=9)
        yield Outcome(f"{moment}: exit code {ended.code}", wrong)


def torn_lines(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Cut the events of a trial and the journal of the study."""
    for number in range(bench.skip, min(count or 6, 6)):
        place = finished(bench)
        files = [place.sweep / "trials" / "0003" / "events.jsonl", *place.sweep.glob("*.jsonl")]
        moment = ", ".join(cut(bench, file, number) for file in files)
        yield Outcome(moment, bench.ended(place, options=MORE, trials=9))


def full_disk(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Fill a small disk under the sweep for a moment: trials wait, and nothing is lost."""
    for number in range(bench.skip, count or 20):
        place = bench.fresh()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place.folder], check=False).returncode:
            yield Outcome("no disk can be mounted here", ["not tried"])
            return
        try:
            shutil.copytree(bench.folder / "fresh", place.folder, dirs_exist_ok=True)
            dice = bench.dice("disk", number)
            moment, seconds = dice.uniform(0.2, 3.0), dice.uniform(0.5, 2.0)
            filler = threading.Timer(moment, _fill, (place.folder, seconds))
            filler.start()
            ended = forked.run(place, "sweep", f"{NAME}.yaml", prepare=_small_disk, pace=0.1, limit=90)
            filler.join()
            wrong = [] if ended.code in (0, 1, 2) else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
            yield Outcome(
                f"after {moment:.1f} s for {seconds:.1f} s, exit code {ended.code}", [*wrong, *bench.ended(place)]
            )
        finally:
            gone(place)
            subprocess.run(["umount", "-l", place.folder], check=True)


def _small_disk() -> None:
    """Let trials go on once a megabyte is free, and look often."""
    from paretune.workflows import trial, trial_guard

    trial_guard.FREE = 2**20
    trial.wait_for_space = partial(trial_guard.wait_for_space, sleep=lambda _: time.sleep(0.2))


def _fill(folder: Path, seconds: float) -> None:
    ballast = folder / "ballast"
    with suppress(OSError), ballast.open("wb", 0) as file:
        while True:
            file.write(bytes(4096))
    time.sleep(seconds)
    ballast.unlink()


def two_of_one_name(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Start two sweeps of one name at the same moment: one is refused, and the other is whole."""
    for _ in range(bench.skip, min(count or 20, 20)):
        place, second = bench.fresh(), list[forked.Result]()

        def another(_: int, place: Place = place, second: list[forked.Result] = second) -> None:
            second.append(forked.run(place, "sweep", f"{NAME}.yaml", out="second.txt"))

        first = forked.run(place, "sweep", f"{NAME}.yaml", meanwhile=another)
        both = [first, *second]
        refused = [one for one in both if one.code == 2]
        wrong = [] if len(refused) == 1 else [f"C9: {[(one.code, last(one.text)) for one in both]}"]
        wrong += ["C9: a traceback" for one in both if "Traceback" in one.text]
        yield Outcome(f"exit codes {[one.code for one in both]}", [*wrong, *bench.ended(place)])


def changed_space(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Change the space of a begun sweep: it is refused with the difference, and goes on when that is accepted."""
    place = finished(bench)
    space = SPACE.replace("high: 0.9", "high: 0.7")
    (place.sweep / "space.yaml").write_text(space)
    refused = forked.run(place, "resume", NAME, *MORE)
    right = refused.code == 2 and "0.7" in refused.text and "--accept-changes" in refused.text
    wrong = [] if right else [f"C9: {refused.code}, {last(refused.text)}"]
    yield Outcome("another range", [*wrong, *bench.ended(place, options=("--accept-changes",), trials=9, space=space)])


KINDS = [
    Kind("F9", "a full disk for a moment", full_disk),
    Kind("F10", "flipped byte in the stage store", partial(damaged_store, flip)),
    Kind("F10", "flipped byte in a record", partial(damaged_record, flip)),
    Kind("F10", "cut record", partial(damaged_record, cut)),
    Kind("F10", "flipped byte in an artefact", partial(damaged_artefact, flip)),
    Kind("F10", "flipped byte in the sweep's file", partial(damaged_file, "sweep.json", flip)),
    Kind("F10", "cut comparison", partial(damaged_file, "comparison.json", cut)),
    Kind("F11", "torn lines of events and journal", torn_lines),
    Kind("F20", "two sweeps of one name", two_of_one_name),
    Kind("F24", "cut study", partial(damaged_study, cut)),
    Kind("F24", "flipped byte in the log's database", partial(damaged_log, flip)),
    Kind("F24", "cut database of the log", partial(damaged_log, cut)),
    Kind("F25", "changed space", changed_space, 1),
]
