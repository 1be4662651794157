"""The verbs. Thin: each reads its arguments and calls one function; whatever is heavy is imported there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paretune import __version__
from paretune.errors import UserError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 the user's mistake, 130 Ctrl-C."""
    parser = build_parser()
    given = parser.parse_args(arguments)
    try:
        return int(given.run(given))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `paretune plugins | head`
        sys.stderr.close()
        return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="paretune",
        description="Find the fastest version of an object detector that is accurate enough, on your hardware.",
        epilog="A first front: paretune sweep jobs/quickstart.yaml",
    )
    parser.add_argument("--version", action="version", version=f"paretune {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_reading(verbs)
    _add_sweeping(verbs)
    _add_looking(verbs)
    _add_cluster(verbs)
    return parser


def _add_reading(verbs: Any) -> None:
    check = verbs.add_parser("check", help="find every mistake in job and search-space files without running them")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE")
    check.set_defaults(run=_check)
    plugins = verbs.add_parser("plugins", help="list detectors, datasets, steps, runtimes, samplers and their fields")
    plugins.add_argument("kind", nargs="?", metavar="KIND", help="one table only")
    plugins.add_argument("--json", action="store_true", help="one JSON object")
    plugins.set_defaults(run=_plugins)


def _add_sweeping(verbs: Any) -> None:
    sweep = verbs.add_parser("sweep", help="train, compress, evaluate, measure: from a job to its front")
    _job_arguments(sweep)
    sweep.add_argument("--address", help=argparse.SUPPRESS)
    sweep.set_defaults(run=_sweep)
    resume = verbs.add_parser("resume", help="go on with a sweep that was stopped or killed, or show a finished one")
    _sweep_arguments(resume)
    resume.add_argument("--address", help=argparse.SUPPRESS)
    resume.set_defaults(run=_resume)


def _add_looking(verbs: Any) -> None:
    front = verbs.add_parser("front", help="print the Pareto front of a sweep")
    _sweep_arguments(front)
    front.add_argument("--target", metavar="T", help="the target (default: the job's first)")
    front.add_argument("--json", action="store_true", help="one JSON object")
    front.set_defaults(run=_front)
    ui = verbs.add_parser("ui", help="open the MLflow UI on the sweeps of an output folder")
    ui.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="output folder (default: runs)")
    ui.add_argument("--port", type=int, default=5000)
    ui.set_defaults(run=_ui)


def _add_cluster(verbs: Any) -> None:
    submit = verbs.add_parser("submit", help="run a sweep on a Ray cluster")
    _job_arguments(submit)
    submit.add_argument("--address", required=True, help="of the cluster's head, such as http://HEAD:8265")
    submit.add_argument("--no-wait", action="store_true", help="do not follow the log")
    submit.set_defaults(run=_submit)
    status = verbs.add_parser("status", help="show the sweeps submitted to a Ray cluster")
    status.add_argument("submission", nargs="?", metavar="ID", help="one of them, with the end of its log")
    status.add_argument("--address", required=True, help="of the cluster's head, such as http://HEAD:8265")
    status.set_defaults(run=_status)


def _job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", type=Path, metavar="JOB.yaml")
    parser.add_argument("--name", help="of the sweep (default: the job's file name)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help="change one field of the job")
    parser.add_argument("--trials", type=int, metavar="N", help="the same as --set search.trials=N")


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="output folder (default: runs)"
    )


def _overrides(given: argparse.Namespace) -> dict[str, Any]:
    """Read ``--set a.b=value`` as YAML reads values."""
    from paretune.yamlfile import read_value

    found: dict[str, Any] = {}
    for text in given.set:
        place, equals, value = text.partition("=")
        if not equals or not all(place.split(".")):
            raise UserError(f"--set {text}: expected a.b=value, such as --set training.epochs=40")
        found[place] = read_value(value, f"--set {place}")
    if given.trials is not None:
        found["search.trials"] = given.trials
    return found


def _check(given: argparse.Namespace) -> int:
    from paretune.check import check_files

    print(check_files(given.files))
    return 0


def _plugins(given: argparse.Namespace) -> int:
    from paretune.check import plugin_tables, plugin_text

    tables = plugin_tables(given.kind)
    if given.json:
        import json

        print(json.dumps(tables, indent=1))
    else:
        print(plugin_text(tables))
    return 0


def _sweep(given: argparse.Namespace) -> int:
    from paretune.folders import new_sweep
    from paretune.job import read_plan

    plan = read_plan(given.job, _overrides(given))
    return _run(new_sweep(plan, given.name or given.job.stem), given.address)


def _resume(given: argparse.Namespace) -> int:
    from paretune.folders import find_sweep

    return _run(find_sweep(given.runs, given.sweep), given.address)


def _run(sweep: Any, address: str | None) -> int:
    from paretune.sweep import run_sweep

    outcome = run_sweep(sweep, address=address)
    if outcome.finished:
        return 0
    where = "" if str(sweep.runs) == "runs" else f" --runs {sweep.runs}"
    print(f"\nstopped; nothing is lost. To go on: paretune resume {sweep.name}{where}", file=sys.stderr)
    return INTERRUPTED


def _front(given: argparse.Namespace) -> int:
    from paretune.folders import find_sweep
    from paretune.reporter import front_json, front_text

    sweep = find_sweep(given.runs, given.sweep)
    print(front_json(sweep, given.target) if given.json else front_text(sweep, given.target))
    return 0


def _ui(given: argparse.Namespace) -> int:
    from paretune.tracking.ui import open_ui

    open_ui(given.runs, given.port)
    return 0


def _submit(given: argparse.Namespace) -> int:
    from paretune.executors.ray.jobs import submit
    from paretune.folders import checked_name
    from paretune.job import read_plan

    plan = read_plan(given.job, _overrides(given))
    name = checked_name(given.name or given.job.stem)
    asks = plan.job.resources.by_ray_name()
    return submit(plan.job.tree(), plan.space_text, name, given.address, asks, wait=not given.no_wait)


def _status(given: argparse.Namespace) -> int:
    from paretune.executors.ray.jobs import status

    print(status(given.address, given.submission))
    return 0
