"""Paretune finds the fastest version of an object detector that is accurate enough, per target.

The functions and classes below are the Python API, of which ``platform/guides/python.md`` gives examples. A name is
imported when it is first used: ``import paretune`` itself imports neither torch nor Ray nor MLflow.
"""

from __future__ import annotations

TYPE_CHECKING = False  # that of ``typing``, which takes longer to import than this module
if TYPE_CHECKING:
    from paretune.api import steps
    from paretune.api.front import Front
    from paretune.api.gpu_profiler import GPUProfiler
    from paretune.api.measuring import evaluate, predict, profile
    from paretune.api.optimizing import optimize
    from paretune.api.running import Stopped, Training, check, resume, sweep, train
    from paretune.config.job import Job
    from paretune.config.recipe import Recipe
    from paretune.core.errors import UserError
    from paretune.core.model import Model
    from paretune.core.target import Target
    from paretune.evaluation.report import EvaluationReport
    from paretune.reports.profile_report import Profile
    from paretune.workflows.optimize import OptimizationResult
    from paretune.workflows.predict import FilePrediction

__version__ = "0.1.0"
__all__ = [
    "EvaluationReport",
    "FilePrediction",
    "Front",
    "GPUProfiler",
    "Job",
    "Model",
    "OptimizationResult",
    "Profile",
    "Recipe",
    "Stopped",
    "Target",
    "Training",
    "UserError",
    "check",
    "evaluate",
    "optimize",
    "predict",
    "profile",
    "resume",
    "steps",
    "sweep",
    "train",
]
_MODULES = {
    "EvaluationReport": "evaluation.report",
    "FilePrediction": "workflows.predict",
    "Front": "api.front",
    "GPUProfiler": "api.gpu_profiler",
    "Job": "config.job",
    "Model": "core.model",
    "OptimizationResult": "workflows.optimize",
    "Profile": "reports.profile_report",
    "Recipe": "config.recipe",
    "Stopped": "api.running",
    "Target": "core.target",
    "Training": "api.running",
    "UserError": "core.errors",
    "check": "api.running",
    "evaluate": "api.measuring",
    "optimize": "api.optimizing",
    "predict": "api.measuring",
    "profile": "api.measuring",
    "resume": "api.running",
    "steps": "api.steps",
    "sweep": "api.running",
    "train": "api.running",
}
"""Name of the API → module of this package that has it."""


def __dir__() -> list[str]:
    """Return the names of the API and of this module."""
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import and return a name of the API.

        Raises:
            AttributeError: there is no such name.
            UserError: the package that it needs is not installed.
        """
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        from paretune.core.startup import missing_package

        try:
            module = import_module(f"{__name__}.{_MODULES[name]}")
            found = module if name == "steps" else getattr(module, name)
        except ModuleNotFoundError as error:
            from paretune.core.errors import UserError

            raise UserError(f"paretune.{name}: {missing_package(error)}") from error
        globals()[name] = found
        return found
