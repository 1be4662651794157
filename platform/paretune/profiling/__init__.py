"""Cost of a predictor, measured so that others get the same figures.

``latency.measure`` measures one artefact, ``latency.compare`` several of them interleaved in one run. Linux only: it
needs ``/proc``, affinity masks and a kernel that ends children with their parent.
"""
