"""Sweeps on a Ray cluster, through Ray's job API."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from paretune.core.errors import UserError, one_line
from paretune.core.hints import command
from paretune.distributed.job_environment import NOTHING, STOPPING, Carried, runtime_environment, staged
from paretune.distributed.node_tasks import ClusterNode
from paretune.distributed.plugin_packages import plugin_packages
from paretune.distributed.ray_dashboard import NODES_WAIT_S, connected, living_nodes

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

SWEEP, OUTPUT = "paretune_sweep", "paretune_output"
"""Keys of a submission's metadata: name of the sweep, and its output folder on the cluster."""


def submit(
    job: Mapping[str, Any],
    space_text: str,
    promises: Sequence[Mapping[str, Any]],
    name: str,
    address: str,
    refuse: Callable[[Sequence[ClusterNode]], None],
    *,
    wait: bool,
    carried: Carried = NOTHING,
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
        carried: variables and requirements that the sweep needs there.

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
    with connected(address) as client:
        refuse(living_nodes(address))
        with staged(job, space_text, promises, carried) as folder:
            told = ("--name", name, "--promises", "promises.json")
            words = ["sweep", "job.json", *told, "--address", "auto"]
            submission = send(client, folder, words, name, job["output"], carried)
        return _sent(client, name, submission, address, wait=wait), submission


def resume(
    name: str, runs: str | None, address: str, options: Sequence[str], *, wait: bool, carried: Carried = NOTHING
) -> tuple[int, str]:
    """Go on with a sweep on the cluster with this package's code.

    Args:
        name: of the sweep.
        runs: its output folder on the cluster; None takes that of the newest submission of this name.
        address: of the head's dashboard.
        options: of the verb ``resume``.
        wait: whether to follow the log until the job ends.
        carried: variables and requirements beside those of the newest submission.

    Returns:
        The exit code as ``submit``, and the name of the submission.

    Raises:
        UserError: no cluster answers, the sweep runs there now, or its folder is not known.
    """
    with connected(address) as client:
        known = submissions_of(client, name)
        if known and not known[0].status.is_terminal():
            running = known[0].submission_id
            raise UserError(f"sweep {name!r} still runs as {running}: {command('logs', running, '--address', address)}")
        folder, name = runs or folder_of(known, name, address), name_of(known, name)
        carried = carried.with_those_of(known[0].metadata if known else {})
        with staged(carried=carried) as package:
            words = ["resume", name, "--runs", folder, *options, "--address", "auto"]
            submission = send(client, package, words, name, folder, carried)
        return _sent(client, name, submission, address, wait=wait), submission


def send(
    client: JobSubmissionClient, folder: Path, words: Sequence[str], name: str, output: str, carried: Carried
) -> str:
    """Submit a job that runs a sweep by this program, and return the name of the submission.

    Args:
        client: of the cluster.
        folder: with the package's code and the files that the words name.
        words: verb, arguments and options.
        name: of the sweep.
        output: the sweep's output folder on the cluster.
        carried: what the folder takes along, of which the metadata keeps the names.
    """
    for package in plugin_packages():
        print(package.line())
    return str(
        client.submit_job(
            entrypoint=shlex.join(["python", "-m", "paretune", *words]),
            runtime_env=runtime_environment(folder, carried),
            metadata={SWEEP: name, OUTPUT: output, **carried.metadata()},
        )
    )


def _sent(client: JobSubmissionClient, name: str, submission: str, address: str, *, wait: bool) -> int:
    print(f"submitted sweep {name!r} as {submission}")
    if wait:
        return follow(client, submission, address)
    print(f"to look at it: {command('status', submission, '--address', address)}")
    return 0


def submissions_of(client: JobSubmissionClient, word: str) -> list[Any]:
    """Return the submissions of a sweep by its name, newest first, or the one of this name."""
    jobs = [job for job in client.list_jobs() if SWEEP in (job.metadata or {})]
    jobs.sort(key=lambda job: -(job.start_time or 0))
    return [job for job in jobs if word in (job.submission_id, job.metadata[SWEEP])]


def name_of(submissions: Sequence[Any], word: str) -> str:
    """Return the name of the sweep of some submissions, which may have been asked for by that of a submission."""
    return str(submissions[0].metadata[SWEEP]) if submissions else word


def folder_of(submissions: Sequence[Any], name: str, address: str) -> str:
    """Return the output folder on the cluster of a sweep's newest submission.

    Raises:
        UserError: the head knows none.
    """
    if submissions and (folder := submissions[0].metadata.get(OUTPUT)):
        return str(folder)
    raise UserError(
        f"{address} knows no submission of sweep {name!r} (a head that was started anew forgets those before): "
        "name its output folder on the cluster with --runs"
    )


def logs(address: str, word: str, *, wait: bool) -> int:
    """Print the log of a submitted sweep, and return 0, or with ``wait`` the exit code as ``submit``.

    Args:
        address: of the head's dashboard.
        word: name of the sweep or of the submission.
        wait: whether to follow the log until the job ends.

    Raises:
        UserError: no cluster answers, or it knows no such sweep.
    """
    with connected(address) as client:
        newest = _known(client, word, address)
        if wait:
            return follow(client, newest.submission_id, address)
        print(client.get_job_logs(newest.submission_id), end="")
        return 0


def stop(address: str, word: str) -> dict[str, Any]:
    """Stop a submitted sweep as Ctrl-C stops one, and return its state.

    Args:
        address: of the head's dashboard.
        word: name of the sweep or of the submission.

    Raises:
        UserError: no cluster answers, it knows no such sweep, or the sweep does not end.
    """
    with connected(address) as client:
        found = _known(client, word, address)
        if not found.status.is_terminal():
            client.stop_job(found.submission_id)
        end = time.monotonic() + STOPPING + NODES_WAIT_S
        while not (state := client.get_job_status(found.submission_id)).is_terminal():
            if time.monotonic() > end:
                raise UserError(
                    f"{found.submission_id} has not ended {STOPPING + NODES_WAIT_S:.0f} s after it was asked"
                )
            time.sleep(0.5)
        return {**_entry(found), "state": state.value.lower()}


def _known(client: JobSubmissionClient, word: str, address: str) -> Any:
    """Return the newest submission of a sweep.

    Raises:
        UserError: the head knows none.
    """
    if found := submissions_of(client, word):
        return found[0]
    raise UserError(
        f"{address} knows no sweep submitted as {word!r} (a head that was started anew forgets those before; "
        f"`{command('resume', word, '--runs', 'FOLDER', '--address', address)}` goes on with one from its folder)"
    )


def status(address: str, word: str | None) -> list[dict[str, Any]]:
    """Return the states of all submitted sweeps, newest first, or of one with the end of its ``log``.

    Args:
        address: of the head's dashboard.
        word: name of a sweep or of a submission; None for all.

    Raises:
        UserError: no cluster answers, or it knows no such sweep.
    """
    with connected(address) as client:
        if word is not None:
            found = _known(client, word, address)
            return [{**_entry(found), "log": client.get_job_logs(found.submission_id).splitlines()[-20:]}]
        jobs = [job for job in client.list_jobs() if SWEEP in (job.metadata or {})]
        return [_entry(job) for job in sorted(jobs, key=lambda job: -(job.start_time or 0))]


def _entry(job: Any) -> dict[str, Any]:
    """Return the state of a submitted sweep."""
    return {
        "submission": job.submission_id,
        "sweep": job.metadata[SWEEP],
        "output": job.metadata.get(OUTPUT),
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


def log_at_end(client: JobSubmissionClient, job: str, *, limit: float) -> str:
    """Return the log of a short job when it has ended, or after so many seconds; Ctrl-C stops it."""
    end = time.monotonic() + limit
    try:
        while not client.get_job_status(job).is_terminal() and time.monotonic() < end:
            time.sleep(0.3)
    except KeyboardInterrupt:
        client.stop_job(job)
        raise
    return str(client.get_job_logs(job))


def follow(client: JobSubmissionClient, submission: str, address: str) -> int:
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
    why = (message or "").partition(", last available logs")[0]  # which have been printed
    print(f"{submission} {state.value.lower()}: {why}", file=sys.stderr)
    return 1
