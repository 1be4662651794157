"""Cost of a predictor, measured so that others get the same figures.

`latency` measures one artefact, `comparison` several of them interleaved; `worker` is the process that
both start, `supervisor` the one that waits for it.
"""
