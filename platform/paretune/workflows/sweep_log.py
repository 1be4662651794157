"""The MLflow log of a sweep that does not run, written from its records."""

from __future__ import annotations

from paretune.core.counts import counted
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import recorded_trials


def write_log(sweep: Sweep, *, again: bool = False) -> bool:
    """Write what the log lacks of a sweep, and print where it is; return whether all could be written.

    Args:
        sweep: on disk.
        again: whether the runs of the sweep are deleted first, and all made again.

    Raises:
        UserError: another process runs the sweep, which logs it too, or a record cannot be read.
    """
    from paretune.workflows.sweep_log_worker import SweepLog

    with sweep.lock():
        log = SweepLog(sweep)
        if again:
            log.delete()
        if not log.tracker.failed:
            log.finish(ended=sweep.finished)
    if log.tracker.failed:
        return False
    count = len(recorded_trials(sweep.folder))
    print(
        f"{counted(count, 'trial')} of {sweep.name!r} are in {log.tracker.place.words}; to look: {sweep.command('ui')}"
    )
    return True
