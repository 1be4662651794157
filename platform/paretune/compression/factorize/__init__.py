"""The parts of factorize."""
