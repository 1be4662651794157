"""Bars and times of work that runs, and the bar of a training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from paretune.training.history import TrainingStep, no_step

if TYPE_CHECKING:
    from rich.console import Console

REDRAW = 0.5
"""Least seconds between two drawings of the bar of a training."""


def bar(share: float, width: int, *, ascii_only: bool = False) -> str:
    """Return a bar of a width, filled to a share."""
    full, empty = "#-" if ascii_only else "━┈"
    filled = round(min(1.0, max(0.0, share)) * width)
    return full * filled + empty * (width - filled)


def clock(seconds: float) -> str:
    """Return seconds as ``4:02`` or ``1:04:02``."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def step_line(step: TrainingStep, left: float | None, width: int, *, ascii_only: bool = False) -> str:
    """Return the line of a training: epoch, bar of its steps, loss, time left.

    Args:
        step: the last one.
        left: expected seconds of the rest of the training; None if they are not known.
        width: columns.
        ascii_only: whether the terminal shows only ASCII.
    """
    epoch, steps = f"epoch {step.epoch}/{step.epochs}", f"{step.step:>{len(str(step.steps))}}/{step.steps}"
    words = [steps, f"loss {step.loss:.3f}", "" if left is None else f"{clock(left)} left"]
    for count in (3, 2, 1):  # what does not fit is left out from the end
        after = "  ".join(filter(None, words[:count]))
        if (room := width - len(epoch) - len(after) - 2) >= 8 or count == 1:
            break
    return f"{epoch} {bar(step.step / step.steps, min(40, max(1, room)), ascii_only=ascii_only)} {after}"


class TrainingBar:
    """The bar of a training below the lines that are printed, redrawn every `REDRAW` seconds at most.

    Args:
        console: a terminal.
        seconds: returns seconds since any moment.
    """

    def __init__(self, console: Console, seconds: Callable[[], float] = time.monotonic) -> None:
        from rich.live import Live

        self.live = Live(console=console, transient=True, auto_refresh=False)
        self._ascii = not console.encoding.startswith("utf")
        self._seconds = seconds
        self._first: tuple[float, float] | None = None
        """Time and epochs done at the first step of the training."""
        self._done, self._drawn = 0.0, -REDRAW

    def __call__(self, step: TrainingStep) -> None:
        """Draw the bar after a step; a training that ends removes it."""
        now = self._seconds()
        if self._first is None or step.done < self._done:  # another training began
            self._first = now, step.done
        self._done = step.done
        ended = step.done >= step.epochs
        if now - self._drawn < REDRAW and not ended:
            return
        self._drawn = now
        began, before = self._first
        left = (step.epochs - step.done) * (now - began) / (step.done - before) if step.done > before else None
        line = "" if ended else step_line(step, left, self.live.console.width - 1, ascii_only=self._ascii)
        self.live.update(line, refresh=True)


@contextmanager
def training_bar() -> Iterator[Callable[[TrainingStep], None]]:
    """Yield a function that draws the bar of a training after each step; it does nothing where no terminal is."""
    from paretune.core.console import live_console

    console = live_console()
    if console is None:
        yield no_step
        return
    bar_of_steps = TrainingBar(console)
    with bar_of_steps.live:
        yield bar_of_steps
