"""``submit`` and ``status``: sweeps on a Ray cluster."""

from __future__ import annotations

import argparse
import functools
from typing import Any

from paretune.cli.options import first_argument, job_arguments
from paretune.cli.resolve import tried_first


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    submit = verbs.add_parser("submit", help="run a sweep on a Ray cluster")
    job_arguments(submit)
    first_argument(submit)
    submit.add_argument("--address", required=True, help="of the cluster's head, such as http://HEAD:8265")
    submit.add_argument("--no-wait", action="store_true", help="do not follow the log")
    submit.set_defaults(run=_submit)
    status = verbs.add_parser("status", help="show the sweeps submitted to a Ray cluster")
    status.add_argument("submission", nargs="?", metavar="ID", help="one of them, with the end of its log")
    status.add_argument("--address", required=True, help="of the cluster's head, such as http://HEAD:8265")
    status.set_defaults(run=_status)


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
    return submit(plan.job.tree(), plan.space_text, trees, name, given.address, refuse, wait=not given.no_wait)


def _status(given: argparse.Namespace) -> int:
    from paretune.distributed.ray_jobs import status

    print(status(given.address, given.submission))
    return 0
