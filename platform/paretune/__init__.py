"""Paretune finds the fastest version of an object detector that is accurate enough, per target."""

__version__ = "0.1.0"
