"""The command line: reads the arguments and runs one verb."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from paretune import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 done in part, 2 the user's mistake or nothing, 130 Ctrl-C."""
    if sys.platform != "linux":  # before anything is imported that is only there
        print(f"paretune runs on Linux only, and this is {sys.platform}: use a Linux machine or WSL 2", file=sys.stderr)
        return 2
    from paretune import device_holders, device_lock
    from paretune.errors import UserError
    from paretune.verbs.arguments import INTERRUPTED

    parser = build_parser()
    given = parser.parse_args(arguments)
    device_holders.say_what(_doing(sys.argv[1:] if arguments is None else arguments, given))
    device_lock.tell_waits(lambda line: print(line, file=sys.stderr))
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


def _doing(words: Sequence[str], given: argparse.Namespace) -> str:
    """Return in a few words what a command does: its verb, and the name of what it is about."""
    said = list(words[: 2 if words[0] == "data" else 1])
    told = [getattr(given, field, None) for field in ("name", "sweep", "job", "artefact", "artefacts", "source")]
    if (about := next((value for value in told if value), None)) is not None:
        first = about[0] if isinstance(about, list) else about
        said.append(first.stem if isinstance(first, Path) and first.suffix == ".yaml" else str(first))
    return " ".join(said)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    from paretune.verbs import (
        advising,
        cluster,
        data,
        evaluating,
        looking,
        optimizing,
        predicting,
        profiling,
        reading,
        sweeping,
        training,
    )

    parser = argparse.ArgumentParser(
        prog="paretune",
        description="Find the fastest version of an object detector that is accurate enough, on your hardware.",
        epilog="A first front: paretune sweep jobs/quickstart.yaml",
    )
    parser.add_argument("--version", action="version", version=f"paretune {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in (
        reading,
        sweeping,
        training,
        optimizing,
        evaluating,
        profiling,
        advising,
        predicting,
        looking,
        cluster,
        data,
    ):
        module.add(verbs)
    return parser
