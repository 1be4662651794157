"""The parts of ssd."""
