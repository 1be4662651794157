"""The parts of nsight."""
