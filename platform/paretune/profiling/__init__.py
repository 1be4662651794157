"""Cost of a predictor, measured so that others get the same figures.

``measure`` measures one artefact, ``compare`` several of them interleaved in one run. Linux only: it needs
``/proc``, affinity masks and a kernel that ends children with their parent.
"""

from paretune.profiling.latency.compare import Comparison, LatencyRatio, compare
from paretune.profiling.latency.measure import measure
from paretune.profiling.latency.result import Latency
from paretune.profiling.latency.samples import MeasurementProtocol

__all__ = ["Comparison", "Latency", "LatencyRatio", "MeasurementProtocol", "compare", "measure"]
