"""Verbs that run on the head of a Ray cluster, whose folders this machine does not see."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.errors import UserError
from paretune.distributed.job_environment import runtime_environment, staged
from paretune.distributed.ray_dashboard import connected
from paretune.distributed.ray_jobs import folder_of, log_at_end, name_of, submissions_of
from paretune.distributed.verb_answer import FETCH, VerbAnswer, answer_in, unpack_folder
from paretune.storage.atomic_files import new_folder

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

VERB = "paretune_verb"
"""Key of the metadata of such a job."""
LIMIT_S = 600.0


def answer_from(
    address: str,
    words: Sequence[str],
    *,
    sweep: str | None = None,
    runs: str | None = None,
    out: Path | None = None,
) -> VerbAnswer:
    """Run a verb on a cluster's head with this package's code, and return what it printed.

    The job is removed from the head's list once it has answered.

    Args:
        address: of the head's dashboard, ``http://HEAD:8265``.
        words: verb, arguments and options, without ``--runs``, ``--out`` and ``--address``.
        sweep: name of the sweep whose newest submission tells the output folder.
        runs: output folder on the cluster; None takes that of the submission.
        out: new folder here, for the one that the verb writes; None if it writes none.

    Raises:
        UserError: no cluster answers, the output folder is not known, or the verb gives no answer.
    """
    with connected(address) as client:
        known = submissions_of(client, sweep or "")
        folder = runs or folder_of(known, sweep or "", address)
        if sweep is not None:
            name = name_of(known, sweep)
            words = [name + word[len(sweep) :] if word.partition("/")[0] == sweep else word for word in words]
        with staged() as package:
            return _answered(client, package, [*words, "--runs", folder], address, out)


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
        words = ["sweep", "job.json", "--name", name, "--dry-run", "--address", "auto"]
        return _answered(client, package, words, address)


def _answered(
    client: JobSubmissionClient, package: Path, words: Sequence[str], address: str, out: Path | None = None
) -> VerbAnswer:
    """Run a verb on the head in a folder of ours, and return its answer; the folder that it writes is then ``out``.

    Raises:
        UserError: it gives none.
    """
    entry = shlex.join(["python", "-m", "paretune.distributed.verb_answer", *([] if out is None else [FETCH]), *words])
    job = client.submit_job(entrypoint=entry, runtime_env=runtime_environment(package), metadata={VERB: words[0]})
    log = log_at_end(client, job, limit=LIMIT_S)
    if (answer := answer_in(log)) is not None:
        if out is not None and answer.wrote:
            with new_folder(out) as draft:
                unpack_folder(log, draft)
        client.delete_job(job)
        return answer
    why = client.get_job_info(job).message or ""
    last = " | ".join((log.strip() or why).splitlines()[-3:])
    raise UserError(f"{address}: `paretune {shlex.join(words)}` gave no answer there; the job {job} said: {last}")


def forgotten_sweeps(address: str, runs: str, known: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the sweeps of an output folder on the cluster that its head has no submission of, as `list` has them.

    Args:
        address: of the head's dashboard.
        runs: output folder on the cluster.
        known: submissions of the head.

    Raises:
        UserError: the cluster does not answer, or there is no such folder.
    """
    answer = answer_from(address, ["list", "--json"], runs=runs)
    if answer.code != 0:
        raise UserError(f"{address}: {' '.join(answer.err.split())}")
    seen = {(one["sweep"], one["output"]) for one in known}
    return [one for one in json.loads(answer.out)["sweeps"] if (one["name"], runs) not in seen]


def state_after_stop(address: str, sweep: str) -> dict[str, Any]:
    """Return the state of a sweep's folder on the cluster, as `watch` has it, or the ``reason`` why it is not known.

    Args:
        address: of the head's dashboard.
        sweep: its name.
    """
    try:
        answer = answer_from(address, ["watch", sweep, "--json"], sweep=sweep)
        if not answer.out:
            return {"reason": " ".join(answer.err.split())}
        told = json.loads(answer.out)
    except (UserError, ValueError) as error:
        return {"reason": str(error)}
    return {name: told[name] for name in ("state", "done", "budget")}
