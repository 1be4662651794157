"""The examples under each verb's ``--help``, and the form of that text."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator

EXAMPLES: dict[str, tuple[str, ...]] = {
    "check": ("jobs/quickstart.yaml", "jobs/voc.yaml --set dataset.voc.root=/data/BCCD --json"),
    "plugins": ("", "step"),
    "sweep": ("jobs/quickstart.yaml", "jobs/quickstart.yaml --name small --set training.epochs=4 --trials 6"),
    "resume": ("quickstart", "quickstart --trials 60"),
    "watch": ("quickstart", "quickstart --once"),
    "train": ("jobs/quickstart.yaml --name trained",),
    "optimize": (
        "runs/trainings/trained --step 'prune={ratio: 0.5}' --step 'finetune={epochs: 6}' --out smaller",
        "runs/trainings/trained --step quantize --runtime openvino --max-drop 0.01 --out int8",
    ),
    "evaluate": (
        "runs/quickstart/trials/0001/artefact --split test",
        "--annotations truth.json --detections results.json",
    ),
    "profile": ("runs/quickstart/trials/0001/artefact runs/quickstart/trials/0004/artefact --out profile",),
    "advise": ("runs/quickstart/trials/0001/artefact --out advice --try 2",),
    "predict": ("runs/quickstart/trials/0004/artefact photo.jpg --out seen",),
    "front": ("quickstart", "quickstart --json --importance"),
    "ui": ("--port 5001", "quickstart --open"),
    "pick": ("quickstart --max-latency 10ms --out chosen", "quickstart --max-drop 0.01"),
    "export": ("quickstart --out deploy", "quickstart --trial 4 --out deploy --archive .tar.gz"),
    "confirm": ("quickstart --seeds 5",),
    "list": ("", "--runs /shared/runs --json"),
    "show": ("quickstart", "quickstart 4"),
    "compare": ("quickstart 1 4", "quickstart/4 small/4"),
    "promote": ("quickstart --trial 4",),
    "sync": ("quickstart",),
    "mlflow rebuild": ("quickstart",),
    "store list": ("",),
    "store prune": ("--max-gib 5",),
    "submit": (
        "jobs/quickstart.yaml --address http://head:8265 --set output=/shared/runs",
        "jobs/quickstart.yaml --address http://head:8265 --set output=/shared/runs --env MLFLOW_TRACKING_TOKEN",
    ),
    "status": ("--address http://head:8265", "quickstart --address http://head:8265"),
    "logs": ("quickstart --address http://head:8265 --follow",),
    "stop": ("quickstart --address http://head:8265",),
    "cluster check": (
        "--address http://head:8265",
        "jobs/voc.yaml --set dataset.voc.root=/shared/VOC --set output=/shared/runs --address http://head:8265",
    ),
    "doctor": ("", "--json"),
    "completion": ("bash > ~/.local/share/bash-completion/completions/paretune",),
    "data check": ("/data/BCCD", "jobs/quickstart.yaml --picture seen.png"),
    "data download": ("voc /data/voc --part 2007",),
    "data convert": ("/data/BCCD /data/coco --to coco",),
    "data split": ("/data/BCCD /data/split --val 0.2 --test 0.1",),
    "data annotate": ("photos /data/photos --to yolo --with runs/quickstart/trials/0004/artefact",),
}
"""Verb → words of commands that work as they are typed, in a folder with the sweep of ``make demo``."""


class HelpFormatter(argparse.HelpFormatter):
    """Breaks each line of a text by itself: a command so that the shell reads its lines as one."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(_broken(line, width, indent) for line in text.splitlines())


def _broken(line: str, width: int, indent: str) -> str:
    """Return a line of a text in as many lines as it needs; those of a command end with a backslash."""
    if not line.startswith("  paretune "):
        return textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent)
    words = re.sub(r"'[^']*'", lambda quoted: quoted[0].replace(" ", "\0"), line.strip())
    lines = textwrap.wrap(words, width - 6, break_long_words=False, break_on_hyphens=False)
    joined = " \\\n      ".join(lines)
    return f"{indent}  {joined}".replace("\0", " ")


def leaves(parser: argparse.ArgumentParser, verb: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Return each verb without verbs of its own, such as ``data check``, with its parser."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
    if not inner:
        yield verb, parser
    for action in inner:
        for name, one in action.choices.items():
            yield from leaves(one, f"{verb} {name}".strip())


def add_examples(parser: argparse.ArgumentParser) -> None:
    """Add the examples below the help of every verb."""
    for verb, one in leaves(parser):
        one.formatter_class = HelpFormatter
        lines = [f"  paretune {verb} {words}".rstrip() for words in EXAMPLES.get(verb, ())]
        text = [one.epilog, ""] if one.epilog else []
        one.epilog = "\n".join([*text, *(["examples:", *lines] if lines else [])])
