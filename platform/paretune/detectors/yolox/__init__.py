"""The parts of yolox."""
