"""The parts of synthetic."""
