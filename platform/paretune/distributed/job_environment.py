"""What a job takes along to a Ray cluster: this package's code, plug-in packages, a sweep's job, variables."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.distributed import forwarded_env
from paretune.distributed.plugin_packages import copy_packages, plugin_packages
from paretune.distributed.ray_session import QUIET

STOP_WAIT, STOPPING = "RAY_JOB_STOP_WAIT_TIME_S", 120
"""Variable that Ray reads, and the seconds from SIGTERM to SIGKILL when a sweep is stopped."""
CODE = "platform"
"""Folder of a job that is on Python's path there."""


@dataclass(frozen=True)
class Carried:
    """What the user asks to take along."""

    variables: tuple[str, ...] = ()
    """Names of environment variables, whose values are read here."""
    pip: tuple[str, ...] = ()
    """Requirements that Ray installs on each node before the job begins."""

    def metadata(self) -> dict[str, str]:
        """Return what a submission's metadata holds of this: names, no values."""
        told = {"paretune_env": self.variables, "paretune_pip": self.pip}
        return {key: json.dumps(names) for key, names in told.items() if names}

    def with_those_of(self, metadata: Mapping[str, str]) -> Carried:
        """Return this with what an earlier submission took along."""
        earlier = (json.loads(metadata.get(key, "[]")) for key in ("paretune_env", "paretune_pip"))
        variables, pip = (
            tuple(dict.fromkeys([*old, *new])) for old, new in zip(earlier, (self.variables, self.pip), strict=True)
        )
        return Carried(variables, pip)


NOTHING = Carried()


def runtime_environment(folder: Path, carried: Carried = NOTHING) -> dict[str, Any]:
    """Return Ray's runtime environment of a job with a folder of ours."""
    variables = {"PYTHONPATH": CODE, "PYTHONUNBUFFERED": "1", STOP_WAIT: str(STOPPING), **QUIET}
    pip = {"pip": list(carried.pip)} if carried.pip else {}
    return {"working_dir": str(folder), "env_vars": variables, **pip}


@contextmanager
def staged(
    job: Mapping[str, Any] | None = None,
    space_text: str = "",
    promises: Sequence[Mapping[str, Any]] = (),
    carried: Carried = NOTHING,
) -> Iterator[Path]:
    """Yield a folder to submit: code, plug-in packages, variables, and a job with its space and its predictions.

    Raises:
        UserError: a variable is not set, or a module of a plug-in package is missing.
    """
    import paretune

    values = forwarded_env.values_of(carried.variables, os.environ)
    package = Path(next(iter(paretune.__path__)))
    folder = Path(tempfile.mkdtemp(prefix="paretune-submit-"))
    try:
        shutil.copytree(package, folder / CODE / "paretune", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        copy_packages(plugin_packages(), folder / CODE)
        forwarded_env.write(values, folder)
        if job is not None:
            (folder / "job.json").write_text(json.dumps({**job, "space": "space.yaml"}, indent=1))
            (folder / "space.yaml").write_text(space_text)
            (folder / "promises.json").write_text(json.dumps(promises))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
