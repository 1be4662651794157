"""``completion``: scripts with which shells complete verbs, options, files and the names of sweeps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")
SWEEPS = "_paretune_sweeps"
"""Shell function that completes the names of sweeps, in the output folder of --runs or in ``runs``."""
PREAMBLE = {
    "bash": f"""\
{SWEEPS}() {{
  local runs=runs place file
  for ((place = 1; place < COMP_CWORD; place++)); do
    [[ ${{COMP_WORDS[place]}} == --runs ]] && runs=${{COMP_WORDS[place + 1]}}
  done
  for file in "$runs"/*/sweep.json; do
    [[ -e $file ]] && file=${{file%/sweep.json}} && compgen -W "${{file##*/}}" -- "$1"
  done
}}
""",
    "zsh": f"""\
{SWEEPS}() {{
  local runs=runs place=${{words[(i)--runs]}}
  (( place < $#words )) && runs=${{words[place + 1]}}
  local -a found=("$runs"/*/sweep.json(N:h:t))
  compadd -a found
}}
""",
}


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    verb = verbs.add_parser("completion", help="print a script with which a shell completes verbs, options and sweeps")
    verb.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    verb.set_defaults(run=_completion)


def _completion(given: argparse.Namespace) -> int:
    import shtab

    from paretune.cli.examples import leaves

    for _, verb in leaves(given.parser):
        for action in verb._actions:  # noqa: SLF001 - argparse has no other way to them
            if action.dest == "sweep":
                action.complete = {"bash": SWEEPS, "zsh": SWEEPS, "tcsh": ""}  # type: ignore[attr-defined]
            elif action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined] # folders, too
    print(shtab.complete(given.parser, given.shell, preamble=PREAMBLE))
    return 0
