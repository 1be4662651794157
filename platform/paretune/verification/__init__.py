"""The parts of verification."""
