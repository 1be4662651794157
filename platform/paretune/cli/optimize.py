"""``optimize``: one trained network through one recipe."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from paretune.cli.options import images_arguments, target_arguments
from paretune.cli.resolve import checked_target
from paretune.core.errors import UserError
from paretune.core.hints import command

TOO_MUCH = 1
"""Exit code if the loss of map is larger than allowed, or unknown."""


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    optimize = verbs.add_parser(
        "optimize",
        help="take a trained network through one recipe, and write the artefact",
        epilog="without --data, the images of the sweep or training that the network lies in; "
        "exit code: 0 done, 1 more is lost than --max-drop allows, 2 nothing was made",
    )
    text = "folder of a training, or of an artefact: begins with its network before it was exported or quantized"
    optimize.add_argument("source", type=Path, metavar="TRAINING|ARTEFACT", help=text)
    optimize.add_argument("--recipe", type=Path, metavar="RECIPE.yaml", help="input_size, steps and runtime; or")
    text = "one step, such as 'prune={ratio: 0.5}'; may be given several times, in order"
    optimize.add_argument("--step", action="append", default=[], metavar="NAME[={FIELDS}]", help=text)
    text = "what runs the result, in place of the recipe's (default: onnxruntime)"
    optimize.add_argument("--runtime", metavar="NAME[={FIELDS}]", help=text)
    optimize.add_argument("--input-size", metavar="WxH", help="of the result (default: as trained)")
    images_arguments(optimize, "train, calibrate and evaluate on")
    optimize.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    text = "exit with 1 if the result's map on val is lower by more: 0.01 is one point; the artefact stays"
    optimize.add_argument("--max-drop", type=float, metavar="X", help=text)
    optimize.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new folder of the artefact")
    target_arguments(optimize)
    optimize.add_argument("--json", action="store_true", help="one JSON object; what goes on is told on stderr")
    optimize.set_defaults(run=_optimize)


def _optimize(given: argparse.Namespace) -> int:
    from paretune.api.optimizing import optimize
    from paretune.reports.progress_bar import training_bar
    from paretune.training.history import no_step

    target = checked_target(given, [given.source])  # its line goes to stderr
    with nullcontext(no_step) if given.json else training_bar() as on_step:
        outcome = optimize(
            given.source,
            given.recipe,
            out=given.out,
            steps=[_plugin(text, "--step") for text in given.step],
            runtime=_plugin(given.runtime, "--runtime") if given.runtime else None,
            input_size=given.input_size,
            data=given.data,
            format=given.format,
            seed=given.seed,
            max_drop=given.max_drop,
            device=target.device,
            threads=target.threads,
            tell=lambda line: print(line, file=sys.stderr if given.json else sys.stdout, flush=True),
            on_step=on_step,
        )
    if given.json:
        import json

        print(json.dumps(outcome.tree(), indent=1))
    else:
        _show(outcome, next(iter(outcome.artefact.runtime)))
    if outcome.drop is None:
        return 0
    print(outcome.drop, file=sys.stdout if outcome.drop.holds and not given.json else sys.stderr)
    return 0 if outcome.drop.holds else TOO_MUCH


def _show(found: Any, runtime: str) -> None:
    """Print the artefact, its change of accuracy, and whether it is usable."""
    made, accuracy = found.artefact, found.accuracy
    for note in made.notes:
        print(f"note: {note}")
    counts = f", {made.params:,} parameters, {made.flops / 1e9:.3g} GFLOP" if made.params and made.flops else ""
    print(f"{made.folder}: {made.format} for {runtime}, {made.size_mib:.2f} MiB{counts}")
    for line in accuracy.lines():
        print(line)
    if accuracy.unusable:
        print(f"NOT USABLE: {accuracy.unusable}")
        print(f"it is kept in {made.folder} all the same; compress less, or fine-tune for more epochs")
    else:
        print(f"to use it: {command('predict', made.folder, 'IMAGE')}")


def _plugin(text: str, option: str) -> dict[str, Any]:
    """Read ``name`` or ``name={fields}``.

    Raises:
        UserError: not of that form.
    """
    from paretune.core.yaml_document import read_value

    name, equals, value = text.partition("=")
    fields = read_value(value, f"{option} {name}") if equals else {}
    if not name or not isinstance(fields, dict):
        example = "'prune={ratio: 0.5}'" if option == "--step" else "onnxruntime"
        raise UserError(f"{option} {text}: expected NAME or NAME={{FIELDS}}, such as {example}")
    return {name: fields}
