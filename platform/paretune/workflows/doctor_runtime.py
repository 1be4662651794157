"""A process that runs one small layer on a runtime, for ``paretune doctor``: a fault of a library ends it alone."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Run a layer on the runtime and device that the arguments name, after the parent's process number."""
    from paretune.core.errors import reason_of
    from paretune.system.child_process import die_with_parent

    parent, name, device = sys.argv[1:]
    die_with_parent(int(parent))
    try:
        _run(name, device)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the library
        print(reason_of(error), file=sys.stderr)
        return 1
    return 0


def _run(name: str, device: str) -> None:
    from paretune.core.target import Target
    from paretune.profiling.single_layers import SquareConvolution, layer_on
    from paretune.runtimes import RUNTIMES
    from paretune.system.machine_cache import kept_in, scratch

    runtime, target = RUNTIMES.load(name)(), Target(device=device)
    layer = SquareConvolution("3x3", 8)
    with (
        scratch() as folder,
        kept_in(Path(folder)),  # compiled anew: a program of the cache shows no compiler
        layer_on(layer, runtime, target, Path(folder)) as run,
    ):
        run()


if __name__ == "__main__":
    sys.exit(main())
