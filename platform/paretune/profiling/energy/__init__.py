"""The parts of energy."""
