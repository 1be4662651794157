"""The parts of results."""
