"""The parts of prune."""
