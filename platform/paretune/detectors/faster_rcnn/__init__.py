"""The parts of faster rcnn."""
