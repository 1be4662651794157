"""What all tests share."""

from __future__ import annotations

import functools
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes with two threads each spin ten times as long
os.environ.pop("COLUMNS", None)  # of the terminal, set by pytest-xdist: tables would be as narrow
# a shell that starts the tests in the background has Ctrl-C ignored, and the processes they interrupt would inherit it
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import settings

settings.register_profile("ours", deadline=None)  # a loaded machine is not a failure
settings.load_profile("ours")


@pytest.hookimpl(trylast=True)  # when those that are not asked for are gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest start first: one that starts last runs with nobody beside.

    How long a file may take is told by its largest timeout, then by its slow tests.
    """
    patience: dict[Path, float] = {}
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    for item in items:
        limit = item.get_closest_marker("timeout")
        patience[item.path] = max(patience.get(item.path, 0.0), limit.args[0] if limit else 0.0)
    items.sort(key=lambda item: (-patience[item.path], -slow[item.path]))


@functools.cache
def starts_ray(file: Path) -> bool:
    return "mark.ray" in file.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send a file to one process, as ``--dist loadfile`` does, and all files that start a Ray to the same one.

    Ray gives up when it starts too slowly: two of them do not start at the same time.
    """
    from xdist.scheduler import LoadFileScheduling

    class OneRay(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "ray" if starts_ray(config.rootpath / file) else file

    return OneRay(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def own_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Locks of this process's own: tests beside each other, and a sweep on the machine, do not wait for one another."""
    folder = tmp_path_factory.mktemp("locks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paretune.system.device_lock.lock_folder", lambda: folder)
        yield folder


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The folder of real photographs."""
    folder = os.environ.get("PARETUNE_DATASETS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PARETUNE_DATASETS names no folder of photographs")
    return Path(folder)
