"""What goes wrong because of what a person wrote: printed without a traceback, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec


class UserError(Exception):
    """A mistake in what the user gave: the message says what, where, and what would be right."""


class UnfitRuntimeError(UserError):
    """A runtime cannot run on the target as its fields ask, whatever network it is given."""


_PACKAGES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "pynvml": "nvidia-ml-py",
    "torch_pruning": "torch-pruning",
    "yaml": "pyyaml",
}
"""Modules whose packages are called otherwise."""


def not_installed(modules: Iterable[str]) -> list[str]:
    """Return those of some modules that are not installed here."""
    return [module for module in modules if find_spec(module) is None]


def needed(modules: Iterable[str]) -> str:
    """Return what to tell who lacks modules: which, and how they are installed."""
    packages = [_PACKAGES.get(module, module) for module in modules]
    return f"{', '.join(packages)}: not installed here (pip install {' '.join(packages)})"


class FailureReason(str):
    """In the place of a figure: why what should have been possible failed, where a plain word is why it is not."""

    __slots__ = ()


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in one file."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        """Give the form editors can jump to: ``file:line: message``."""
        return f"{self.file}:{self.line}: {self.message}"


class UserErrors(UserError):  # noqa: N818 - the plural of UserError
    """Several mistakes found in one reading, all of them told at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Keep the problems in the order of their lines, each once."""
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def one_line(error: BaseException) -> str:
    """Return an error's text in one line."""
    return " ".join(str(error).split())
