"""The energy of an inference."""
