"""Kernels of an inference on an NVIDIA GPU by Nsight Compute."""
