"""Suppression of prints, warnings and log messages of libraries."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Suppress prints, warnings, and messages below ERROR of the named loggers; errors are raised.

    Args:
        loggers: names of loggers; an empty name is the root logger.
    """
    named = [logging.getLogger(name or None) for name in loggers]
    levels = [logger.level for logger in named]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in named:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(named, levels, strict=True):
                logger.setLevel(level)
