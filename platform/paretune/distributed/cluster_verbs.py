"""Verbs that run on the head of a Ray cluster, whose folders this machine does not see."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.errors import UserError
from paretune.distributed.ray_dashboard import connected
from paretune.distributed.ray_jobs import folder_of, log_at_end, runtime_environment, staged, submissions_of
from paretune.distributed.verb_answer import VerbAnswer, answer_in

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

VERB = "paretune_verb"
"""Key of the metadata of such a job."""
LIMIT_S = 600.0


def answer_from(address: str, words: Sequence[str], *, sweep: str | None = None, runs: str | None = None) -> VerbAnswer:
    """Run a verb on a cluster's head with this package's code, and return what it printed.

    The job is removed from the head's list once it has answered.

    Args:
        address: of the head's dashboard, ``http://HEAD:8265``.
        words: verb, arguments and options, without ``--runs`` and ``--address``.
        sweep: name of the sweep whose newest submission tells the output folder.
        runs: output folder on the cluster; None takes that of the submission.

    Raises:
        UserError: no cluster answers, the output folder is not known, or the verb gives no answer.
    """
    with connected(address) as client:
        folder = runs or folder_of(submissions_of(client, sweep or ""), sweep or "", address)
        with staged() as package:
            return _answered(client, package, [*words, "--runs", folder], address)


def estimate_from(address: str, job: Mapping[str, Any], space_text: str, name: str) -> VerbAnswer:
    """Estimate a sweep's time on a cluster's head, from an earlier sweep there or a short probe.

    Args:
        address: of the head's dashboard.
        job: the checked job, every field with its value.
        space_text: its search space.
        name: of the sweep.

    Raises:
        UserError: no cluster answers, or the verb gives no answer.
    """
    with connected(address) as client, staged(job, space_text) as package:
        words = ["sweep", "job.yaml", "--name", name, "--dry-run", "--address", "auto"]
        return _answered(client, package, words, address)


def _answered(client: JobSubmissionClient, package: Path, words: Sequence[str], address: str) -> VerbAnswer:
    """Run a verb on the head in a folder of ours, and return its answer.

    Raises:
        UserError: it gives none.
    """
    entry = shlex.join(["python", "-m", "paretune.distributed.verb_answer", *words])
    job = client.submit_job(entrypoint=entry, runtime_env=runtime_environment(package), metadata={VERB: words[0]})
    log = log_at_end(client, job, limit=LIMIT_S)
    if (answer := answer_in(log)) is not None:
        client.delete_job(job)
        return answer
    why = client.get_job_info(job).message or ""
    last = " | ".join((log.strip() or why).splitlines()[-3:])
    raise UserError(f"{address}: `paretune {shlex.join(words)}` gave no answer there; the job {job} said: {last}")
