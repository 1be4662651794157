"""Mistakes of the user: printed without a traceback, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from paretune.core.secret_texts import without_secrets


class UserError(Exception):
    """A mistake of the user; the message names what is wrong, where, and what would be right."""


class UnfitRuntimeError(UserError):
    """The target cannot run any network on a runtime with these fields."""


class NodeLostError(RuntimeError):
    """A node of the cluster is gone or does not answer: the fault of a machine, not that of what it was to do."""


_PACKAGES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "pynvml": "nvidia-ml-py",
    "torch_pruning": "torch-pruning",
    "yaml": "pyyaml",
}
"""Module → name of its package, where they differ."""


def not_installed(modules: Iterable[str]) -> list[str]:
    """Return the modules that are not installed."""
    return [module for module in modules if find_spec(module) is None]


def needed(modules: Iterable[str]) -> str:
    """Return a message that names missing modules and the command that installs them."""
    packages = [_PACKAGES.get(module, module) for module in modules]
    return f"{', '.join(packages)}: not installed here (pip install {' '.join(packages)})"


class FailureReason(str):
    """Why a measurement failed, in place of its result; a plain ``str`` there is why it is impossible."""

    __slots__ = ()


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in one file."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        """Return ``file:line: message``, which editors can jump to; without a line if it is 0."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.message}"


class UserErrors(UserError):  # noqa: N818 - the plural of UserError
    """Several mistakes, reported together."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Sort the problems by line and drop repetitions."""
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def one_line(error: BaseException) -> str:
    """Return an error's text in one line, without secrets."""
    return without_secrets(" ".join(str(error).split()))


def reason_of(error: BaseException) -> str:
    """Return an error in one line, with its class unless it is a mistake of the user."""
    return one_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
