"""Training: one loop, on one device or, by Ray Train, on several."""
