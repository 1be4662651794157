"""``submit`` and ``status``: sweeps on a Ray cluster."""

from __future__ import annotations

import argparse
import functools
from typing import Any

from paretune.cli.options import answering, first_argument, job_arguments, json_argument
from paretune.cli.resolve import tried_first


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    submit = verbs.add_parser("submit", help="run a sweep on a Ray cluster")
    job_arguments(submit)
    first_argument(submit)
    submit.add_argument("--address", required=True, help="of the cluster's head, such as http://HEAD:8265")
    submit.add_argument("--no-wait", action="store_true", help="do not follow the log")
    json_argument(submit, "one JSON object when it is submitted, or with the log, at its end")
    submit.set_defaults(run=answering(_submit))
    status = verbs.add_parser("status", help="show the sweeps submitted to a Ray cluster")
    status.add_argument("submission", nargs="?", metavar="ID", help="one of them, with the end of its log")
    status.add_argument("--address", required=True, help="of the cluster's head, such as http://HEAD:8265")
    json_argument(status)
    status.set_defaults(run=answering(_status))


def _submit(given: argparse.Namespace) -> int:
    from paretune.config.output_folder import new_sweep_name
    from paretune.config.plan import read_plan
    from paretune.distributed.ray_jobs import submit
    from paretune.workflows.machine_check import refuse_unfit_cluster

    changes, promises = tried_first(given)
    plan = read_plan(given.job, changes, here=False)
    name = new_sweep_name(given.name or given.job.stem)
    trees = [promise.tree() for promise in promises]
    refuse = functools.partial(refuse_unfit_cluster, plan.job)
    job, wait = plan.job.tree(), not given.no_wait
    code, submission = submit(job, plan.space_text, trees, name, given.address, refuse, wait=wait)
    told = {"sweep": name, "submission": submission, "address": given.address}
    given.answer({**told, "followed": wait, "exit_code": code})
    return code


def _status(given: argparse.Namespace) -> int:
    from paretune.distributed.ray_jobs import status, status_text

    submissions = status(given.address, given.submission)
    print(status_text(submissions))
    given.answer({"address": given.address, "submissions": submissions})
    return 0
