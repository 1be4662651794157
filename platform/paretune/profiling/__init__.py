"""Cost of a predictor, measured so that others get the same figures.

``measure`` measures one artefact, ``compare`` several of them interleaved in one run. ``worker`` is the
process that both start, ``supervisor`` the one that waits for it, ``cores`` picks the cores and watches
who else uses them, ``samples`` holds what was timed and the statistics of it. Linux only: it needs
``/proc``, affinity masks and a kernel that ends children with their parent.
"""

from paretune.profiling.latency.compare import Comparison, Ratio, compare
from paretune.profiling.latency.measure import measure
from paretune.profiling.latency.result import Latency
from paretune.profiling.latency.samples import Protocol

__all__ = ["Comparison", "Latency", "Protocol", "Ratio", "compare", "measure"]
