"""The parts of gpu."""
