"""Training of detectors: one loop, on one device, or on several by Ray Train."""
