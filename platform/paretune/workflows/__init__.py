"""The parts of workflows."""
