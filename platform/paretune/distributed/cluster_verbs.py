"""Verbs that run on the head of a Ray cluster, whose folders this machine does not see."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence

from paretune.core.errors import UserError
from paretune.distributed.job_environment import runtime_environment, staged
from paretune.distributed.ray_dashboard import connected
from paretune.distributed.ray_jobs import folder_of, submissions_of
from paretune.distributed.verb_answer import VerbAnswer, answer_in

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
            entry = ["python", "-m", "paretune.distributed.verb_answer", *words, "--runs", folder]
            job = client.submit_job(
                entrypoint=shlex.join(entry), runtime_env=runtime_environment(package), metadata={VERB: words[0]}
            )
        end = time.monotonic() + LIMIT_S
        try:
            while not client.get_job_status(job).is_terminal() and time.monotonic() < end:
                time.sleep(0.3)
        except KeyboardInterrupt:
            client.stop_job(job)
            raise
        log = client.get_job_logs(job)
        if (answer := answer_in(log)) is not None:
            client.delete_job(job)
            return answer
        why = client.get_job_info(job).message or ""
        last = " | ".join((log.strip() or why).splitlines()[-3:])
        raise UserError(f"{address}: `paretune {shlex.join(words)}` gave no answer there; the job {job} said: {last}")
