"""The live view of a sweep: redrawn at the bottom of a terminal, or a plain line from time to time.

It is kept out of measurements: while any process of this machine has a device alone, the view is redrawn every `BESIDE`
seconds at most, and nothing else is read than who holds the devices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from paretune.core.errors import UserError
from paretune.reports.sweep_snapshot import SweepSnapshot
from paretune.reports.sweep_view import sweep_view, working_line
from paretune.system.device_lock import is_measured

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

PAUSE = 1.0
"""Seconds between two looks at a sweep."""
BESIDE = 5.0
"""Least seconds between two drawings while something is measured on this machine."""
SILENCE = 60.0
"""Seconds without a line after which a plain output gets one."""


class LiveView:
    """Shows a sweep while it runs.

    Args:
        look: returns the state of the sweep.
        say: prints a line; used where there is no terminal.
        console: a terminal; None where lines are printed.
        measured: returns whether something is measured on this machine.
        seconds: returns seconds since any moment.
    """

    def __init__(
        self,
        look: Callable[[], SweepSnapshot],
        say: Callable[[str], None],
        console: Console | None = None,
        *,
        measured: Callable[[], bool] = is_measured,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._say, self._console = look, say, console
        self._measured, self._seconds = measured, seconds
        self._live: Live | None = None
        self._said = self._looked = seconds()
        """Times of the last printed line, and of the last look."""
        self._done: int | None = None
        """Number of finished trials in the last view."""
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def said(self) -> None:
        """Note that a line was printed, so that the next one of this view may wait."""
        self._said = self._seconds()

    def tick(self, *, watching: bool = False) -> SweepSnapshot | None:
        """Draw the view, or print a line if none was for long; return the state of the sweep if it was read.

        Args:
            watching: whether the state is read even if no line is due, which then is printed after each trial too.
        """
        now = self._seconds()
        due = self._console is not None or now - self._said >= SILENCE
        if not (due or watching) or (now - self._looked < BESIDE and self._measured()):
            return None
        self._looked = now
        snapshot = self._look()
        if due or snapshot.done != self._done:
            self.show(snapshot)
        return snapshot

    def show(self, snapshot: SweepSnapshot) -> None:
        """Draw a state of the sweep, or print it in a line."""
        self._done = snapshot.done
        if self._console is None:
            if snapshot.state in ("running", "unknown"):
                self.said()
                self._say(working_line(snapshot))
        elif self._live is not None:
            width, height = self._console.size
            ascii_only = not self._console.encoding.startswith("utf")
            self._live.update(sweep_view(snapshot, width - 1, height - 1, ascii_only=ascii_only), refresh=True)

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Keep the view at the bottom of the terminal while the block runs; what is printed appears above it."""
        if self._console is None:
            yield
            return
        from rich.live import Live

        with Live(console=self._console, transient=True, auto_refresh=False) as self._live:
            yield
        self._live = None

    def start(self) -> None:
        """Show the sweep from a thread until `stop` is called."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="live view", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Remove the view and end the thread."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with self.drawn():
            while not self._ending.wait(PAUSE):
                try:
                    self.tick()
                except (UserError, OSError) as error:  # a file is damaged: the sweep itself reports that
                    self._say(f"the state of the sweep cannot be read: {error}")
                    return


def watch(
    look: Callable[[], SweepSnapshot], view: LiveView, pause: Callable[[float], None] = time.sleep
) -> SweepSnapshot:
    """Show a sweep until it ends or no process runs it any more, and return its last state.

    Args:
        look: returns the state of the sweep.
        view: shows it.
        pause: waits for some seconds.
    """
    snapshot, silent = look(), 0
    with view.drawn():
        view.show(snapshot)
        while snapshot.state != "finished" and silent < PATIENCE:
            pause(PAUSE)
            if (seen := view.tick(watching=True)) is not None:
                snapshot, silent = seen, silent + 1 if seen.state == "stopped" else 0
    return snapshot


PATIENCE = 3
"""Looks in a row that find no process before a watch ends: one that begins has not locked the sweep yet."""
