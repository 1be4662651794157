"""A sweep of each family over everything: what was sampled, what failed, and how fast the best of it is."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressed import FOLDER, maps, optimized, ratios
from figures import Figures, paretune
from training import Case, trained

JOBS = {"voc": "yolo"}
"""Job of a training → the one that searches, where they differ."""
NETWORK = {"voc": 1.5, "ssd": 3.5, "faster_rcnn": 3.0}
"""How many times as fast the network alone must be as the best dense one in fp32."""
WHOLE = {"voc": 5.0, "ssd": 12.0, "faster_rcnn": 5.0}
"""How many times as fast an image must become boxes as in eager."""
DROP = 1.0
"""Points of map that may be lost."""
DENSE: dict[str, Any] = {"eager": "eager", "onnxruntime": "onnxruntime", "openvino": "openvino"}


def swept(case: Case, root: Path) -> Path:
    """Run the sweep, or go on with it; returns its folder."""
    job, runs = JOBS.get(case.job, case.job), FOLDER / "sweeps"
    field, folder = case.dataset
    if (runs / job / "sweep.json").is_file():
        paretune("resume", job, "--runs", str(runs))
    else:
        sets = (f"output={runs}", f"{field}={root / folder}", f"baseline={trained(case, 0, root).folder}")
        words = [word for text in sets for word in ("--set", text)]
        paretune("sweep", f"jobs/{job}.yaml", "--name", job, *words)
    return runs / job


def fastest(records: Sequence[Any], floor: float) -> Any:
    """Return the fastest record that is accurate enough on `val`; None where there is none."""
    enough = [record for record in records if record.state == "complete" and 100 * record.metrics["map"] >= floor]
    return min(enough, key=lambda record: record.metrics["latency_ms_p50"], default=None)


def fill(case: Case, root: Path, figures: Figures) -> None:
    """Search one family; the fastest within a point on `val` is measured beside dense networks, and told on `test`."""
    from paretune.records import read_records

    folder, source = swept(case, root), trained(case, 0, root).folder
    records = read_records(folder)
    print((paretune("front", folder.name, "--runs", str(folder.parent))).stdout, flush=True)
    failed = [record for record in records if record.state != "complete"]
    for reason, count in Counter(record.failure for record in failed).most_common():
        print(f"{case.name}: {count} failed: {reason}", flush=True)
    sampled = {next(iter(step)) for record in records for step in record.recipe["steps"]}
    figures.add(f"{case.name}: trials", len(records), at_least=30)
    figures.add(f"{case.name}: failed without a reason", sum(not record.failure for record in failed), at_most=0)
    figures.more[f"{case.job} steps sampled"] = sorted(sampled)
    figures.more[f"{case.job} failed"] = {str(record.number): record.failure for record in failed}
    shutil.copy(folder / "front" / "front.png", FOLDER / f"{case.job}-front.png")

    dense = {name: FOLDER / case.job / f"dense-{name}" for name in DENSE}
    for name, place in dense.items():
        if reason := optimized(source, [], DENSE[name], place, source):
            raise RuntimeError(f"{case.name}, dense on {name}: {reason}")
    before = maps(dense["eager"], source)
    best = fastest(records, before["val"] - DROP)
    if best is None:
        figures.add(f"{case.name}: fastest within a point", None, at_least=WHOLE[case.job])
        return
    place = folder / best.artefact
    kept = FOLDER / case.job / "best"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(place, kept)
    kept.with_name("best.map.json").unlink(missing_ok=True)
    after = maps(kept, source)
    figures.add(
        f"{case.name}: points lost on test by the fastest within {DROP:g} on val", before["test"] - after["test"]
    )
    against = ratios([*dense.values(), kept], source)
    for name, (whole, core) in zip(dense, against, strict=True):
        print(f"{case.name}, trial {best.number} against {name} fp32: {whole:.2f}x, the network alone {core:.2f}x")
    figures.add(f"{case.name}: image to boxes, against eager", against[0][0], "x", at_least=WHOLE[case.job])
    least = min(core for _, core in against[1:])
    figures.add(f"{case.name}: network, against the best dense fp32", least, "x", at_least=NETWORK[case.job])
