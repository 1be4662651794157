"""The parts of roofline."""
