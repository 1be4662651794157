"""Search methods of other packages, replayed on a recorded table in processes of their own (``search_peer.py``).

They learn their own proposals with the figures of the nearest row. None of them knows constraints.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from search_replay import Answer, Pool, Replay, Replayed

from paretune.search.conditional_points import ConditionalPoints, value_at
from paretune.search.space import Choices, Fields, Items, Node, Range, Space

PEERS = {"smac": "SMAC3 (ParEGO)", "moasha": "Syne Tune's MO-ASHA", "hierarchical_tpe": "OptunaHub's hierarchical TPE"}
"""Method of ``search_peer.py`` → its name in tables."""
PYTHON = "PARETUNE_PEERS"
"""Environment variable: the interpreter that has the packages; by default this one."""
MORE = 3
"""Trials of MO-ASHA, which stops most of them, for each one of the others."""
EPOCHS = 9


class PeerMissing(Exception):  # noqa: N818 - nothing went wrong
    """Raised where a package is not installed."""


def parameters(space: Space) -> list[dict[str, Any]]:
    """Return the parameters of a space as ``search_peer.py`` takes them, each after what it depends on."""
    found: list[dict[str, Any]] = []

    def walk(node: Node, parent: list[Any] | None) -> None:
        match node:
            case Range():
                found.append({"name": node.name, "options": None, "parent": parent})
            case Choices():
                found.append({"name": node.name, "options": len(node.options), "parent": parent})
                for place, option in enumerate(node.options.values()):
                    walk(option, [node.name, place])
            case Fields():
                for item in node.items.values():
                    walk(item, parent)
            case Items():
                for item in node.items:
                    walk(item, parent)

    walk(space.root, None)
    return found


class Peer:
    """A running method.

    Args:
        method: of ``search_peer.py``.
        space: that is searched.
        seed: of the method.
        trials: that it will be asked for.

    Raises:
        PeerMissing: its package is not installed.
    """

    def __init__(self, method: str, space: Space, seed: int, trials: int) -> None:
        self._nodes, self._points = space.parameters, ConditionalPoints(space, np.random.default_rng(0))
        command = [os.environ.get(PYTHON, sys.executable), str(Path(__file__).with_name("search_peer.py"))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        order = {"method": method, "parameters": parameters(space), "seed": seed, "trials": trials}
        answer = self._said(order)
        if "missing" in answer:
            self.close()
            raise PeerMissing(answer["missing"])

    def _said(self, line: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def ask(self) -> dict[str, Any]:
        """Return the next point of the space."""
        values = {}
        for name, value in self._said({"ask": True})["point"].items():
            node = self._nodes[name]
            values[name] = list(node.options)[value] if isinstance(node, Choices) else value_at(node, value)
        return self._points.draw(values)

    def tell(self, answer: Answer, base: Answer, *, quality: float | None, epoch: int, last: bool) -> bool:
        """Pass on what a trial is worth at an epoch; return whether it is to be stopped."""
        values = None if quality is None else [1.0 - quality, float(np.log(answer.cost / base.cost))]
        return bool(self._said({"tell": values, "epoch": epoch, "last": last})["stop"])

    def close(self) -> None:
        """End the process."""
        self._process.stdin and self._process.stdin.close()
        self._process.stdout and self._process.stdout.close()
        self._process.wait(timeout=60)


@contextmanager
def running(method: str, space: Space, seed: int, trials: int) -> Iterator[Peer]:
    """Run a method for the time of the block."""
    peer = Peer(method, space, seed, trials)
    try:
        yield peer
    finally:
        peer.close()


def missing(method: str, space: Space) -> str | None:
    """Return why a method cannot run here; None if it can."""
    try:
        with running(method, space, 0, 10):
            return None
    except PeerMissing as reason:
        return str(reason)
    except (OSError, ValueError) as error:
        return f"it does not start: {error}"


def replay_peer(pool: Pool, method: str, seed: int, trials: int) -> Replay:
    """Search a pool once by a method of another package; nothing is stored between trials."""
    rows = Replayed(None, pool)  # type: ignore[arg-type] - for its rows alone
    done, volumes, seconds, proposing, spent = list[Answer](), list[float](), list[float](), list[float](), 0.0
    count = min(trials * (MORE if method == "moasha" else 1), len(pool.answers))
    with running(method, pool.space, seed, trials) as peer:
        for _ in range(count):
            start = time.perf_counter()
            point = peer.ask()
            proposing.append(time.perf_counter() - start)
            row = rows.nearest(point, {})
            rows.take(row)
            answer = pool.answers[row]
            paid, stopped = _to_the_end(peer, answer, pool.base) if method == "moasha" else (answer.seconds, False)
            spent += paid
            if not stopped:
                peer.tell(answer, pool.base, quality=answer.map, epoch=EPOCHS, last=True)
                done.append(answer)
            volumes.append(pool.hypervolume(done) / pool.best)
            seconds.append(spent)
    return Replay(volumes, seconds, proposing)


def _to_the_end(peer: Peer, answer: Answer, base: Answer) -> tuple[float, bool]:
    """Return the CPU seconds of a trial that may be stopped at a rung, and whether it was stopped."""
    full = answer.stages.network.get("finetune", 0.0)
    rest = answer.seconds - full
    for epoch, (seconds, quality) in sorted(answer.stages.rungs.items()):
        if answer.map is not None and peer.tell(answer, base, quality=quality, epoch=epoch, last=False):
            return rest + seconds, True
    return answer.seconds, False
