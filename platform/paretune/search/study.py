"""The search of one sweep: an Optuna study in SQLite, kept in step with the trial records.

The study and the records are the truth; what a crash left between the two is put right when the
study is opened again. Trials 0 and 1 are the two baselines, and those after them may be recipes that
were named one by one: they need not lie in the space and are records only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paretune.core.baselines import EAGER
from paretune.core.spec import fingerprint
from paretune.core.types import InputSize
from paretune.search.samplers import Sampler
from paretune.search.space import Choices, Range, Scalar, Space

if TYPE_CHECKING:
    import optuna

    from paretune.storage.trial_record import Record

NUMBER = "paretune.trial"
SAME_AS = "paretune.same_as"
UNKNOWN_VIOLATION = 1e6  # Optuna takes finite numbers only
DRAWS = 64
"""Draws of one proposal; if all of them were run before, the space counts as used up."""
TRUSTED = 4
"""The first of them, which the sampler makes; the others are drawn evenly."""


@dataclass(frozen=True)
class Proposal:
    """A trial to be run: its number in the sweep, its recipe, where the recipe comes from."""

    number: int
    recipe: Mapping[str, Any]
    origin: str


class SpaceExhausted(Exception):  # noqa: N818 - nothing went wrong
    """No recipe is found that has not been run."""


@dataclass(frozen=True)
class StudySettings:
    """What is searched, and how."""

    space: Space
    objectives: Mapping[str, Literal["maximize", "minimize"]]
    """Metric → "maximize" or "minimize"."""
    violations: Callable[[Record], Mapping[str, float]]
    """Record → constraint → by how much it is broken; 0 or less is feasible."""
    sampler: Sampler
    seed: int
    """Of the sampler."""
    normal: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    """Drawn recipe → recipe with every field filled in, as records hold it."""
    fixed: Sequence[tuple[Mapping[str, Any], str]]
    """Recipes of the first trials, the baselines before all others, and where each comes from; numbered from 0."""


class Study:
    """Proposes recipes and takes records.

    Args:
        file: the SQLite database; made if it is not there.
        name: the sweep's name.
        setup: what is searched.
        records: what has been done already.
    """

    def __init__(self, file: Path, name: str, setup: StudySettings, records: Sequence[Record]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._setup = setup
        seed = setup.seed + len(records)  # a sampler that has seen n trials goes on differently from one that starts
        self._study = optuna.create_study(
            storage=f"sqlite:///{file}",
            study_name=name,
            directions=list(setup.objectives.values()),
            sampler=setup.sampler.build(seed),
            load_if_exists=True,
        )
        kinds = (kind for trial in self._study.get_trials(deepcopy=False) for kind in trial.distributions.items())
        self._integers = frozenset(
            name for name, kind in kinds if isinstance(kind, optuna.distributions.IntDistribution)
        )
        """Parameters that the study holds as integers; it takes them as nothing else."""
        # with the sampler's own seed it would repeat what the sampler drew at its start
        self._even = optuna.samplers.RandomSampler(seed=(seed + 2**31) % 2**32)
        for point in setup.space.first:
            self._study.enqueue_trial(dict(point), user_attrs={"origin": "enqueued"}, skip_if_exists=True)
        self._records = {record.number: record for record in records}
        self._enqueue_again()
        self._waiting = [
            Proposal(number, recipe, origin)
            for number, (recipe, origin) in enumerate(setup.fixed)
            if number not in self._records
        ]
        self._open: dict[int, int] = {}
        """Trial number → Optuna's id, of trials that are proposed and not yet told."""
        self._proposed: dict[int, Mapping[str, Any]] = {}
        """Trial number → recipe, of proposals that are not yet told."""
        self._no_new_recipe = False
        """Nothing new was found beside the open proposals; whether the space is used up shows when one is told."""
        self._unfinished: list[int] = []
        self._reconcile()

    def _enqueue_again(self) -> None:
        """Enqueue first points once more that failed of a runtime installed since, or were passed over then."""
        trials = self._study.get_trials(deepcopy=False)
        begun = [{**frozen.system_attrs.get("fixed_params", {}), **frozen.params} for frozen in trials]
        for index, frozen in enumerate(trials):
            told = frozen.user_attrs
            record = self._records.get(told.get(NUMBER, told.get(SAME_AS, -1)))
            if told.get("origin") != "enqueued" or record is None or not record.runtime_installed_since:
                continue
            if begun[index] not in begun[index + 1 :]:
                self._study.enqueue_trial(begun[index], user_attrs={"origin": "enqueued"})

    def _reconcile(self) -> None:
        """Tell what was recorded but not told before a crash; take up what was begun and not recorded."""
        import optuna

        for frozen in self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            number = frozen.user_attrs.get(NUMBER)
            if number is None:
                self._unfinished.append(frozen._trial_id)  # noqa: SLF001 - the id is what Trial() takes
                continue
            self._open[number] = frozen._trial_id  # noqa: SLF001
            if number in self._records:
                self.tell(self._records[number])
            else:
                del self._open[number]
                self._unfinished.append(frozen._trial_id)  # noqa: SLF001

    @property
    def numbers(self) -> set[int]:
        """Numbers of the trials that are done, told or proposed."""
        told = {t.user_attrs[NUMBER] for t in self._study.get_trials(deepcopy=False) if NUMBER in t.user_attrs}
        return told | set(self._records) | set(range(len(self._setup.fixed)))

    def propose(self) -> Proposal | None:
        """Return the next trial, or None where a trial has to be told first.

        All depends on the eager baseline; and where every draw was run before or is being run, what is being run may
        come to nothing.

        Raises:
            SpaceExhausted: every draw had been run before, and nothing is being run.
        """
        if self._no_new_recipe or (
            EAGER not in self._records and not (self._waiting and self._waiting[0].number == EAGER)
        ):
            return None
        if self._waiting:
            proposal = self._waiting.pop(0)
            self._proposed[proposal.number] = proposal.recipe
            return proposal
        for draw in range(DRAWS):
            with self._drawing(evenly=draw >= TRUSTED):
                trial = self._ask()
                recipe = self._setup.normal(self._setup.space.sample(_Suggest(trial, self._integers)).value)
            same = self._equivalent_trial(recipe)
            if same is None:
                return self._proposal(trial, recipe)
            trial.set_user_attr(SAME_AS, same)
            self._tell(trial, self._records.get(same))
        if not self._proposed:
            raise SpaceExhausted
        self._no_new_recipe = True
        return None

    @property
    def _eager_is_next_or_done(self) -> bool:
        return EAGER in self._records or (bool(self._waiting) and self._waiting[0].number == EAGER)

    @contextmanager
    def _drawing(self, *, evenly: bool) -> Iterator[None]:
        """Draw by the sampler, or evenly over the space.

        A sampler that learns nothing from failed trials proposes the recipe, or the runtime, of one again and again.
        """
        sampler = self._study.sampler
        self._study.sampler = self._even if evenly else sampler
        try:
            yield
        finally:
            self._study.sampler = sampler

    def _ask(self) -> optuna.Trial:
        import optuna

        if self._unfinished:
            return optuna.Trial(self._study, self._unfinished.pop(0))
        return self._study.ask()

    def _proposal(self, trial: optuna.Trial, recipe: Mapping[str, Any]) -> Proposal:
        number = trial.user_attrs.get(NUMBER)
        if number is None:
            number = max(self.numbers, default=-1) + 1
            trial.set_user_attr(NUMBER, number)
        self._open[number] = trial._trial_id  # noqa: SLF001
        self._proposed[number] = recipe
        return Proposal(number, recipe, trial.user_attrs.get("origin", "sampled"))

    def _equivalent_trial(self, recipe: Mapping[str, Any]) -> int | None:
        """Return the number of a trial that tells what comes of a recipe, so that it need not be run.

        One that has run the same, a baseline perhaps, or runs it now; or one that found that the target cannot run
        what the recipe's runtime asks.
        """
        key, runtime = _key(recipe), recipe.get("runtime")
        told = {number: record.recipe for number, record in self._records.items() if not record.runtime_installed_since}
        same = (number for number, known in {**self._proposed, **told}.items() if _key(known) == key)
        unfit = (
            r.number for r in self._records.values() if r.runtime_unavailable and r.recipe.get("runtime") == runtime
        )
        return next(same, next(unfit, None))

    @property
    def baseline_failed(self) -> bool:
        """Tell whether the eager baseline, on which the rest depends, has failed or lacks what is asked for."""
        eager = self._records.get(EAGER)
        if eager is None or eager.state == "failed":
            return eager is not None
        unknown = any(metric not in eager.metrics for metric in self._setup.objectives)
        return unknown or any(math.isinf(violation) for violation in self._setup.violations(eager).values())

    def tell(self, record: Record) -> None:
        """Take what came of a trial; telling twice does nothing."""
        import optuna

        self._records[record.number] = record
        self._proposed.pop(record.number, None)
        self._no_new_recipe = False
        trial_id = self._open.pop(record.number, None)
        if trial_id is not None:
            self._tell(optuna.Trial(self._study, trial_id), record)

    def _tell(self, trial: optuna.Trial, record: Record | None) -> None:
        """Tell Optuna what came of a trial; without a record nothing is known of it, and nothing is learnt."""
        import optuna

        found = record.metrics if record is not None and record.state == "complete" else {}
        values = [found.get(metric) for metric in self._setup.objectives]
        if record is None or any(value is None or not math.isfinite(value) for value in values):
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        for key, violation in self._setup.violations(record).items():
            trial.set_constraint(key, min(violation, UNKNOWN_VIOLATION))
        self._study.tell(trial, [float(value) for value in values if value is not None])


def _key(recipe: Mapping[str, Any]) -> str:
    """Return what two recipes share that ask for the same, whichever way their input size is written."""
    size = recipe.get("input_size")
    return fingerprint(recipe if size is None else {**recipe, "input_size": str(InputSize.parse(size))})


class _Suggest:
    """A chooser that asks Optuna."""

    def __init__(self, trial: optuna.Trial, integers: frozenset[str] = frozenset()) -> None:
        self._trial = trial
        self._integers = integers

    def number(self, space: Range) -> float:
        if space.whole or space.name in self._integers:
            step = 1 if space.log or space.step is None else int(space.step)
            return self._trial.suggest_int(space.name, int(space.low), int(space.high), step=step, log=space.log)
        value = self._trial.suggest_float(space.name, space.low, space.high, step=space.step, log=space.log)
        return float(f"{value:.12g}")  # a step of 0.05 yields 0.15000000000000002

    def option(self, space: Choices) -> Scalar:
        chosen: Scalar = self._trial.suggest_categorical(space.name, list(space.options))
        return chosen
