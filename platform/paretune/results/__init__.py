"""Sweeps and trainings on disk: their folders, fronts and advice."""
