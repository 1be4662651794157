"""The parts of storage."""
