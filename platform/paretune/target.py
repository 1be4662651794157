"""``Target`` at the path that it had in version 0.1, for one version: ``paretune.core.target`` is its module."""

from paretune.core.target import Target

__all__ = ["Target"]
