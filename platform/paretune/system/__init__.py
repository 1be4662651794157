"""The parts of system."""
