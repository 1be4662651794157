"""The parts of latency."""
