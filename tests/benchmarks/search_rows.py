"""Recorded tables of real trials: their lines on disk, and the recipes that are recorded.

A table is a file of JSON lines. A line with ``seconds`` and without ``deploy`` describes a network, the lines after it
the artefacts that were made of it; a second file holds their latencies.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from figures import ROOT

from paretune.search.space import Choices, Fields, Node, Range, Scalar, Space, parameters_of

TABLES = ROOT / "tests" / "data" / "search_tables"
SPACE = TABLES / "space.yaml"
RUNGS = (0, 1, 3, 9)
"""Epochs of fine-tuning after which a network is recorded."""
DEPLOY = "deploy"


@dataclass(frozen=True)
class Network:
    """A recorded recipe without its deployment."""

    network: int
    """Number of the recipe in its table."""
    params: dict[str, Any]
    """Parameters of the space without those of the deployment."""
    seconds: dict[str, float]
    """Stage → CPU seconds; fine-tuning is the last rung's."""
    epochs: dict[str, float]
    """Rung → CPU seconds of fine-tuning until it."""
    failure: str | None = None
    """Reason why there is no network."""
    machine: str | None = None
    """Name of the processor on which it was recorded."""


@dataclass(frozen=True)
class Row:
    """A recorded artefact."""

    network: int
    rung: int
    """Epochs of fine-tuning."""
    deploy: dict[str, Any]
    """Parameters of the deployment."""
    seconds: dict[str, float]
    """Stage → CPU seconds of what this artefact needs beyond its network."""
    metrics: dict[str, float] = field(default_factory=dict)
    failure: str | None = None

    @property
    def key(self) -> tuple[int, int, str]:
        """Return what identifies the artefact in its table."""
        return self.network, self.rung, label_of(self.deploy)


@dataclass
class Table:
    """A recorded table."""

    networks: dict[int, Network]
    rows: list[Row]
    latency: dict[tuple[int, str], dict[str, float]]
    """(network, deployment) → ratio to the uncompressed network's latency, its interval, and ``latency_ms``: the ratio
    times that network's median latency."""


def label_of(deploy: Mapping[str, Any]) -> str:
    """Return a deployment as a file name, such as ``onnxruntime_int8-nncf-0``."""
    return "-".join(str(value).lower() for value in deploy.values())


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a table; the last one is left out if it was torn off."""
    lines = []
    for text in file.read_text().splitlines() if file.is_file() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def read_table(file: Path) -> Table:
    """Read a table, and the latencies beside it if there are any."""
    networks, rows = dict[int, Network](), list[Row]()
    for line in lines_of(file):
        if DEPLOY in line:
            rows.append(Row(**line))
        else:
            networks[line["network"]] = Network(**line)
    latency = {(line.pop("network"), line.pop(DEPLOY)): line for line in lines_of(latency_file(file))}
    scale = float(np.median([line["reference_ms"] for line in latency.values()])) if latency else 0.0
    for line in latency.values():
        line["latency_ms"] = scale * line["ratio"]
    return Table(networks, rows, latency)


def latency_file(file: Path) -> Path:
    """Return the file of a table's latencies."""
    return file.with_suffix(".latency.jsonl")


def append(file: Path, *lines: Network | Row | Mapping[str, Any]) -> None:
    """Append lines to a table in one write; a line that was torn off before is removed first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    known = "".join(f"{json.dumps(line)}\n" for line in lines_of(file))
    if file.is_file() and file.read_text() != known:
        file.write_text(known)
    plain = (line if isinstance(line, Mapping) else asdict(line) for line in lines)
    text = "".join(
        f"{json.dumps({key: value for key, value in line.items() if value is not None})}\n" for line in plain
    )
    with file.open("a") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())


@dataclass
class Draw:
    """A chooser that draws evenly, or takes what is given; it records the parameters."""

    random: np.random.Generator
    given: Mapping[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)

    def number(self, space: Range) -> float:
        """Return a number of the range."""
        if space.name not in self.given:
            self.params[space.name] = self._drawn(space)
        else:
            self.params[space.name] = self.given[space.name]
        value: float = self.params[space.name]
        return value

    def _drawn(self, space: Range) -> float:
        if space.log:
            drawn = float(np.exp(self.random.uniform(np.log(space.low), np.log(space.high))))
            return round(drawn) if space.whole else float(f"{drawn:.4g}")
        step = space.step or (1 if space.whole else None)
        if step is None:
            return float(f"{self.random.uniform(space.low, space.high):.4g}")
        drawn = space.low + step * self.random.integers(round((space.high - space.low) / step) + 1)
        return int(drawn) if space.whole else float(f"{drawn:.12g}")

    def option(self, space: Choices) -> Scalar:
        """Return a label of the choice."""
        if space.name not in self.given:
            self.params[space.name] = list(space.options)[self.random.integers(len(space.options))]
        else:
            self.params[space.name] = self.given[space.name]
        label: Scalar = self.params[space.name]
        return label


KEPT = 0.7
"""Share of the parameters of a first point that its neighbours keep."""


def network_params(space: Space, number: int) -> dict[str, Any]:
    """Return the parameters of a table's recipe, without the deployment.

    The first ones are the space's own first points. Of the others each second one is drawn evenly and each second one
    near a first point, so that the table is dense where the good recipes are.
    """
    random = np.random.default_rng([20261130, number])
    given: Mapping[str, Any] = {}
    if number < len(space.first):
        given = space.first[number]
    elif number % 2:
        around = space.first[random.integers(len(space.first))]
        given = {name: value for name, value in around.items() if random.random() < KEPT}
    draw = Draw(random, given)
    space.sample(draw)
    return {name: value for name, value in draw.params.items() if not name.startswith(DEPLOY)}


def deployments(space: Space) -> list[dict[str, Any]]:
    """Return the parameters of every deployment that a space offers."""
    assert isinstance(space.root, Fields)
    return list(_combinations(space.root.items[DEPLOY]))


def _combinations(node: Node) -> Iterator[dict[str, Any]]:
    """Yield every assignment of the choices below a node."""
    if isinstance(node, Choices):
        for label, option in node.options.items():
            for rest in _combinations(option):
                yield {node.name: label, **rest}
    elif isinstance(node, Fields) or hasattr(node, "items"):
        parts = node.items.values() if isinstance(node, Fields) else node.items  # type: ignore[union-attr]
        for chosen in itertools.product(*(list(_combinations(part)) for part in parts)):
            yield {name: value for part in chosen for name, value in part.items()}
    else:
        assert not list(parameters_of(node)), "a deployment has choices only"
        yield {}


def recipe_of(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the written recipe of all parameters of a point."""
    draw = Draw(np.random.default_rng(0), params)
    recipe: dict[str, Any] = dict(space.sample(draw).value)
    assert draw.params.keys() <= params.keys(), f"missing: {draw.params.keys() - params.keys()}"
    return recipe
