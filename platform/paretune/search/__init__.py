"""The search: spaces, samplers, the study of a sweep, the Pareto front."""
