"""The command line: reads the arguments and runs one verb."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from paretune import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return 0 if it is done, 1 if in part, 2 for a mistake of the user, 130 for Ctrl-C."""
    if sys.platform != "linux":  # before anything is imported that is only there
        print(f"paretune runs on Linux only, and this is {sys.platform}: use a Linux machine or WSL 2", file=sys.stderr)
        return 2
    from paretune.core.errors import UserError
    from paretune.core.startup import any_output, in_utf8, missing_package

    if arguments is None:
        in_utf8()
    any_output()
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(missing_package(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        from paretune.cli.options import INTERRUPTED

        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `paretune plugins | head`
        sys.stderr.close()
        return 0


def _run(words: Sequence[str]) -> int:
    """Run one verb and return its exit code."""
    from paretune.cli.options import doing
    from paretune.system import device_holders, device_waiter

    given = build_parser().parse_args(words)
    given.words = list(words)
    device_holders.say_what(doing(words, given))
    device_waiter.tell_waits(lambda line: print(line, file=sys.stderr))
    return int(given.run(given))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    from paretune.cli import (
        advise,
        check,
        cluster,
        completion,
        confirm,
        data,
        doctor,
        evaluate,
        export,
        front,
        log,
        look,
        optimize,
        pick,
        predict,
        profile,
        promote,
        store,
        sweep,
        train,
        watch,
    )
    from paretune.cli.examples import add_examples
    from paretune.cli.options import Parser

    parser = Parser(
        prog="paretune",
        description="Find the fastest version of an object detector that is accurate enough, on your hardware.",
        epilog="A first front: paretune sweep jobs/quickstart.yaml",
    )
    parser.add_argument("--version", action="version", version=f"paretune {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    begin, measure = (check, sweep, train, optimize), (evaluate, profile, advise)
    use = (predict, front, pick, export, confirm)
    for module in (*begin, watch, *measure, look, *use, promote, log, store, cluster, data, doctor, completion):
        module.add(verbs)
    add_examples(parser)
    parser.set_defaults(parser=parser)  # that completion reads
    return parser
