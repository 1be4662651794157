"""The parts of formats."""
