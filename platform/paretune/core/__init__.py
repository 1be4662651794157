"""The parts of core."""
