"""Process that trains without end on given cores: the load of the probe for measurements beside trainings.

It takes no lock of a device: the process that started it holds them, and stops and continues it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from paretune.system.child_process import die_with_parent, private_stdout


def main() -> int:
    """Train as the request of the first line says, and print a line after the first pass over the images."""
    answers = private_stdout()
    request = json.loads(sys.stdin.readline())
    die_with_parent(request["parent"])
    os.sched_setaffinity(0, request["cores"])
    sys.path += [folder for folder in request["path"] if folder not in sys.path]
    from paretune.results.sweep_folder import Sweep
    from paretune.training.loop import pick_device
    from paretune.training.training_speed import training_steps
    from paretune.workflows.trial_context import context_of, with_threads

    context = context_of(Sweep(Path(request["runs"]), request["name"]))
    job, settings = context.job, with_threads(context.job.training)
    device = pick_device(settings.device)
    ready = False
    for number, _ in training_steps(job.detector, context.data.splits["train"], job.size, settings, device):
        if number and not ready:
            answers.write("ready\n")
            answers.flush()
            ready = True
    return 0


if __name__ == "__main__":
    sys.exit(main())
