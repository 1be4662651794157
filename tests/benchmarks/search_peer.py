"""A search method of another package, asked and told over standard input and output, a JSON object a line.

Runs where the package is installed, and imports nothing of this repository.

The first line is ``{"method", "parameters", "seed", "trials"}``. A parameter is ``{"name", "options", "parent"}``: the
number of its options, or null for a number from 0 to 1; and ``[name, option]`` if it exists with that option only. The
answer is ``{"ready": true}`` or ``{"missing": reason}``. ``{"ask": true}`` is answered by ``{"point": {name: option or
number}}``, and ``{"tell": values or null, "epoch", "last"}``, whose values are to be minimised, by ``{"stop"}``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

EPOCHS = 9
"""Epochs of a whole training."""
WORST = 10.0
"""Value of a trial that failed, in every objective; values are about 0 to 3."""


class Smac:
    """SMAC3 with ParEGO: Lindauer et al., JMLR 2022."""

    def __init__(self, parameters: list[dict[str, Any]], seed: int, trials: int) -> None:
        from ConfigSpace import Categorical, ConfigurationSpace, EqualsCondition, Float
        from smac import HyperparameterOptimizationFacade, Scenario
        from smac.multi_objective.parego import ParEGO

        space, made = ConfigurationSpace(seed=seed), dict[str, Any]()
        for one in parameters:
            name, options = one["name"], one["options"]
            made[name] = Categorical(name, list(range(options))) if options else Float(name, (0.0, 1.0))
        space.add(list(made.values()))
        space.add(
            [EqualsCondition(made[one["name"]], made[one["parent"][0]], one["parent"][1])
             for one in parameters if one["parent"]]
        )  # fmt: skip
        scenario = Scenario(
            space, objectives=["quality", "cost"], n_trials=10 * trials, seed=seed, deterministic=True,
            output_directory=tempfile.mkdtemp(),
        )  # fmt: skip
        design = HyperparameterOptimizationFacade.get_initial_design(scenario, n_configs=max(8, trials // 10))
        self._smac = HyperparameterOptimizationFacade(
            scenario, lambda config, seed=0: [0.0, 0.0], initial_design=design, logging_level=False, overwrite=True,
            multi_objective_algorithm=ParEGO(scenario),
        )  # fmt: skip
        self._asked: Any = None

    def ask(self) -> dict[str, Any]:
        """Return the next point."""
        self._asked = self._smac.ask()
        return {name: float(value) if isinstance(value, float) else int(value)
                for name, value in dict(self._asked.config).items()}  # fmt: skip

    def tell(self, values: list[float] | None, epoch: int, *, last: bool) -> bool:
        """Learn the values of the point that was asked for; return whether the trial is to be stopped."""
        from smac.runhistory.dataclasses import TrialValue

        if last:
            self._smac.tell(self._asked, TrialValue(cost=values or [WORST, WORST]))
        return False


class MoAsha:
    """Syne Tune's multi-objective ASHA: Schmucker et al., arXiv:2106.12639."""

    def __init__(self, parameters: list[dict[str, Any]], seed: int, trials: int) -> None:
        import random

        import numpy as np
        from syne_tune.config_space import choice, uniform
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        np.random.seed(seed)  # noqa: NPY002 - what the package draws from
        random.seed(seed)
        space = {one["name"]: choice(list(range(one["options"]))) if one["options"] else uniform(0.0, 1.0)
                 for one in parameters}  # fmt: skip
        self._moasha = MOASHA(space, metrics=["quality", "cost"], time_attr="epoch", max_t=EPOCHS, random_seed=seed)
        self._trial: Any = None
        self._number = 0

    def ask(self) -> dict[str, Any]:
        """Return the next point; parameters of options that are not chosen are in it too."""
        from datetime import datetime

        from syne_tune.backend.trial_status import Trial

        config = dict(self._moasha.suggest().config)
        self._trial = Trial(self._number, config, datetime.now())  # noqa: DTZ005 - as the package does
        self._number += 1
        self._moasha.on_trial_add(self._trial)
        return {name: float(value) if isinstance(value, float) else int(value) for name, value in config.items()}

    def tell(self, values: list[float] | None, epoch: int, *, last: bool) -> bool:
        """Learn the values at an epoch; return whether the trial is to be stopped."""
        if values is None:
            self._moasha.on_trial_remove(self._trial)
            return True
        result = {"quality": values[0], "cost": values[1], "epoch": epoch}
        if last:
            self._moasha.on_trial_complete(self._trial, result)
            return False
        return bool(self._moasha.on_trial_result(self._trial, result) == "STOP")


class HierarchicalTpe:
    """The hierarchical TPE of OptunaHub's registry, or of a copy of the registry's ``package`` in OPTUNAHUB."""

    def __init__(self, parameters: list[dict[str, Any]], seed: int, trials: int) -> None:
        import optuna
        import optunahub

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        name, copy = "samplers/hierarchical_tpe", os.environ.get("OPTUNAHUB")
        module = optunahub.load_local_module(name, registry_root=copy) if copy else optunahub.load_module(name)
        self._parameters = parameters
        self._study = optuna.create_study(
            directions=["minimize", "minimize"], sampler=module.HierarchicalTPESampler(seed=seed)
        )

    def ask(self) -> dict[str, Any]:
        """Return the next point."""
        trial, point = self._study.ask(), dict[str, Any]()
        for one in self._parameters:
            parent, name = one["parent"], one["name"]
            if parent is not None and point.get(parent[0]) != parent[1]:
                continue
            if one["options"]:
                point[name] = trial.suggest_categorical(name, list(range(one["options"])))
            else:
                point[name] = trial.suggest_float(name, 0.0, 1.0)
        self._trial = trial
        return point

    def tell(self, values: list[float] | None, epoch: int, *, last: bool) -> bool:
        """Learn the values of the point that was asked for; return whether the trial is to be stopped."""
        import optuna

        if last and values is None:
            self._study.tell(self._trial, state=optuna.trial.TrialState.FAIL)
        elif last:
            self._study.tell(self._trial, values)
        return False


METHODS = {"smac": Smac, "moasha": MoAsha, "hierarchical_tpe": HierarchicalTpe}


def main() -> None:
    """Answer the lines of standard input; what packages print goes to standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    order = json.loads(sys.stdin.readline())
    try:
        method = METHODS[order["method"]](order["parameters"], order["seed"], order["trials"])
    except (ImportError, TypeError) as error:  # or made for another version of Optuna
        answer(missing=str(error))
        return
    answer(ready=True)
    for line in sys.stdin:
        said = json.loads(line)
        if "ask" in said:
            answer(point=method.ask())
        else:
            stop = method.tell(said["tell"], said["epoch"], last=said["last"])
            answer(stop=bool(stop))


if __name__ == "__main__":
    main()
