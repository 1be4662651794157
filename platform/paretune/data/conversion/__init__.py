"""The parts of conversion."""
