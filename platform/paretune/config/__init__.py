"""The parts of config."""
