"""Counts with their nouns in texts for people."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, such as ``1 trial`` and ``4 trials``; the plural ends with s."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
