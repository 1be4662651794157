"""The parts of quantize."""
