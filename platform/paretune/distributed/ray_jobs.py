"""Sweeps on a Ray cluster, through Ray's job API."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from paretune.core.errors import UserError, one_line
from paretune.core.hints import command
from paretune.distributed.node_tasks import ClusterNode
from paretune.distributed.ray_session import QUIET

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

NODES_WAIT_S = 20.0

AUTH_HELP = (
    "this cluster asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE (or RAY_AUTH_TOKEN) "
    "to the one its head was started with"
)


def submit(
    job: Mapping[str, Any],
    space_text: str,
    promises: Sequence[Mapping[str, Any]],
    name: str,
    address: str,
    refuse: Callable[[Sequence[ClusterNode]], None],
    *,
    wait: bool,
) -> tuple[int, str]:
    """Run a sweep on the cluster with this package's code.

    Args:
        job: the checked job, every field with its value.
        space_text: its search space.
        promises: predictions for recipes that it tries first, as ``AdvicePrediction.tree`` returns them.
        name: of the sweep.
        address: of the head's dashboard, ``http://HEAD:8265``.
        refuse: called with the nodes before the submission; raises UserError if they do not suffice.
        wait: whether to follow the log until the job ends.

    Returns:
        0 if it was submitted (``wait=False``) or succeeded, 1 if it failed; and the name of the submission.

    Raises:
        UserError: no cluster answers, it refuses the token or lacks the resources, or the job's output folder would be
            removed with the job.
    """
    if not PurePosixPath(job["output"]).is_absolute():
        raise UserError(
            f"output: {job['output']!r} would lie in a folder that ends with the job: "
            "give an absolute one that all nodes share, such as --set output=/shared/runs"
        )
    with _client(address) as client:
        refuse(_nodes(address))
        with _staged(job, space_text, promises) as folder:
            submission = client.submit_job(
                entrypoint=f"python -m paretune sweep job.yaml --name {name} --promises promises.json --address auto",
                runtime_env={
                    "working_dir": str(folder),
                    "env_vars": {"PYTHONPATH": "platform", "PYTHONUNBUFFERED": "1", **QUIET},
                },
                metadata={"paretune_sweep": name},
            )
        print(f"submitted sweep {name!r} as {submission}")
        if not wait:
            print(f"to look at it: {command('status', submission, '--address', address)}")
            return 0, submission
        return _follow(client, submission, address), submission


def status(address: str, submission: str | None) -> list[dict[str, Any]]:
    """Return the states of all submitted sweeps, newest first, or of one with the end of its ``log``.

    Raises:
        UserError: no cluster answers, or there is no such submission.
    """
    with _client(address) as client:
        jobs = [job for job in client.list_jobs() if "paretune_sweep" in (job.metadata or {})]
        if submission is None:
            return [_entry(job) for job in sorted(jobs, key=lambda job: -(job.start_time or 0))]
        found = next((job for job in jobs if job.submission_id == submission), None)
        if found is None:
            raise UserError(f"{address} knows no sweep submitted as {submission!r}")
        return [{**_entry(found), "log": client.get_job_logs(submission).splitlines()[-20:]}]


def _entry(job: Any) -> dict[str, Any]:
    """Return the state of a submitted sweep."""
    return {
        "submission": job.submission_id,
        "sweep": job.metadata["paretune_sweep"],
        "state": job.status.value.lower(),
        "begun": (job.start_time or 0) / 1000,
    }


def status_text(submissions: Sequence[Mapping[str, Any]]) -> str:
    """Return the results of ``status`` as text."""
    lines = []
    for one in submissions:
        begun = datetime.fromtimestamp(one["begun"], UTC).strftime("%Y-%m-%d %H:%M UTC")
        lines += [f"{one['submission']}  {one['sweep']}  {one['state']}  {begun}", *one.get("log", ())]
    return "\n".join(lines) or "no sweeps have been submitted to this cluster"


@contextmanager
def _client(address: str) -> Iterator[JobSubmissionClient]:
    """Yield a client whose errors become mistakes of the user."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient
    from ray.util.state.exception import RayStateApiException

    if not address.startswith(("http://", "https://")):
        raise UserError(f"--address {address}: expected the head's dashboard, such as http://HEAD:8265")
    try:
        yield JobSubmissionClient(address)
    except AuthenticationError as error:
        raise UserError(f"{address}: {AUTH_HELP}") from error
    except BrokenPipeError:  # of our own output
        raise
    except ConnectionError as error:
        raise UserError(f"{address}: no Ray dashboard answers there (is the head up, and the port right?)") from error
    except (RuntimeError, OSError, ValueError, KeyError, RayStateApiException) as error:  # another server, a lost head
        why = one_line(error)
        raise UserError(f"{address}: does not answer as a Ray dashboard does (is the port right?): {why}") from error


def _nodes(address: str) -> list[ClusterNode]:
    """Return the living nodes, after waiting for a head that has just started."""
    from ray.util.state import list_nodes

    end = time.monotonic() + NODES_WAIT_S
    while True:
        nodes = [node for node in list_nodes(address=address, detail=True) if node.state == "ALIVE"]
        if nodes or time.monotonic() > end:
            return [ClusterNode(node.node_name, node.resources_total, node.labels or {}) for node in nodes]
        time.sleep(0.5)


@contextmanager
def _staged(job: Mapping[str, Any], space_text: str, promises: Sequence[Mapping[str, Any]]) -> Iterator[Path]:
    """Yield a folder to submit: the package's code, the job, its space, its predictions."""
    import paretune

    package = Path(next(iter(paretune.__path__)))
    folder = Path(tempfile.mkdtemp(prefix="paretune-submit-"))
    try:
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(package, folder / "platform" / "paretune", ignore=ignore)
        (folder / "job.yaml").write_text(json.dumps({**job, "space": "space.yaml"}, indent=1))
        (folder / "space.yaml").write_text(space_text)
        (folder / "promises.json").write_text(json.dumps(promises))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _follow(client: JobSubmissionClient, submission: str, address: str) -> int:
    """Print the job's log until it ends and return the exit code; Ctrl-C or a lost head leaves the job running."""
    from aiohttp import ClientError
    from ray.job_submission import JobStatus

    look = f"to look at it: {command('status', submission, '--address', address)}"

    async def tail() -> None:
        async for lines in client.tail_job_logs(submission):
            print(lines, end="", flush=True)

    try:
        asyncio.run(tail())
        while not (state := client.get_job_status(submission)).is_terminal():
            time.sleep(1)
        message = client.get_job_info(submission).message
    except KeyboardInterrupt:
        print(f"\nthe sweep goes on; {look}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # of our own output
        raise
    except (RuntimeError, OSError, ValueError, ClientError) as error:
        why = one_line(error)
        print(f"\n{address} was lost ({why}); while its head lives, the sweep goes on; {look}", file=sys.stderr)
        return 1
    if state == JobStatus.SUCCEEDED:
        return 0
    print(f"{submission} {state.value.lower()}: {message}", file=sys.stderr)
    return 1
