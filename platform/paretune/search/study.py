"""The search of one sweep: an Optuna study, kept in SQLite and synchronised with the trial records.

Differences that a crash leaves between the two are repaired when the study is opened. The baselines, and the recipes of
``search.first`` after them, need not lie in the space and are in the records only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from paretune.core.baselines import EAGER
from paretune.search.first_points import SAME_AS, enqueue_again, enqueue_first
from paretune.search.observations import OBSERVED, expected, result_of
from paretune.search.optuna_chooser import OptunaChooser, recipe_key
from paretune.search.pareto_front import keeps_all, objectives_of
from paretune.search.siblings import Siblings
from paretune.search.study_database import StudyDatabase
from paretune.search.study_file import NUMBER, StudyFile
from paretune.search.study_settings import Proposal, SpaceExhausted, StudySettings
from paretune.search.target_values import TargetValues

if TYPE_CHECKING:
    import optuna

    from paretune.storage.trial_record import Record

SIBLING = "sibling"
"""Origin of a trial that is another trial's network on another runtime."""
UNKNOWN_VIOLATION = 1e6  # Optuna takes finite numbers only
DRAWS = 64
"""Draws of one proposal; if all of them were run before, the space is considered exhausted."""
TRUSTED = 4
"""Draws by the sampler among ``DRAWS``; the later ones are drawn evenly."""


class Study:
    """Proposes recipes and learns from records; ``close`` writes what is not in its file yet.

    Args:
        database: made if it does not exist.
        setup: settings of the study.
        records: of the finished trials.

    Raises:
        UserError: the database on a server does not answer.
    """

    def __init__(self, database: StudyDatabase, setup: StudySettings, records: Sequence[Record]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._setup = setup
        seed = setup.seed + len(records)  # a sampler that has seen n trials goes on differently from one that starts
        directions = list(setup.objectives.values())
        sampler = setup.sampler.build_for(setup.space, seed)
        self._study = optuna.create_study(study_name=database.name, directions=directions, sampler=sampler)
        self._file = StudyFile(database, setup.objectives)
        self._file.load_into(self._study)
        kinds = (kind for trial in self._study.get_trials(deepcopy=False) for kind in trial.distributions.items())
        self._integers = frozenset(
            name for name, kind in kinds if isinstance(kind, optuna.distributions.IntDistribution)
        )
        """Parameters that the study stores as integers and must get as integers."""
        # with the sampler's own seed it would repeat what the sampler drew at its start
        self._even = optuna.samplers.RandomSampler(seed=(seed + 2**31) % 2**32)
        known = len(self._study.get_trials(deepcopy=False))
        enqueue_first(self._study, setup.earlier, setup.space.first)
        self._siblings = Siblings(setup.space, objectives_of(setup.objectives), setup.siblings)
        for frozen in self._study.get_trials(deepcopy=False):
            if NUMBER in frozen.user_attrs:
                self._siblings.note(frozen.user_attrs[NUMBER], frozen.params)
        self._values = TargetValues(setup.objectives, setup.targets)
        self._records: dict[int, Record] = {}
        self._done: dict[str, int] = {}
        """Key of a recipe → the first trial that finished with it, unless its runtime has been installed since."""
        self._unfit: list[tuple[Any, int]] = []
        """(runtime, trial) of the trials whose runtime the target cannot run."""
        for record in records:
            self._remember(setup.view(record))
        enqueue_again(self._study, self._records)
        for frozen in self._study.get_trials(deepcopy=False)[known:]:
            self._file.changed(frozen._trial_id)  # noqa: SLF001 - ids are what Optuna's storages take
        taken = {frozen.user_attrs.get(NUMBER) for frozen in self._study.get_trials(deepcopy=False)}
        self._waiting = [
            Proposal(number, recipe, origin)
            for number, (recipe, origin) in enumerate(setup.fixed)
            if number not in self._records and number not in taken  # an extended search may have more of them
        ]
        self._open: dict[int, int] = {}
        """Trial number → Optuna's id, for proposed trials without a record."""
        self._proposed: dict[int, str] = {}
        """Trial number → key of the recipe, for proposals without a record."""
        self._no_new_recipe = False
        """Whether all draws repeated open proposals; the next record decides whether the space is exhausted."""
        self.paused: list[Proposal] = []
        """Proposals of the trials that were paused."""
        self._unfinished: list[int] = []
        self._next = max(self.numbers, default=-1) + 1
        self._reconcile()

    def save(self) -> None:
        """Write to the file what is not in it yet."""
        self._file.save()

    def close(self) -> None:
        """Write to the file what is not in it yet, and close it."""
        self._file.close()

    def _remember(self, record: Record) -> None:
        """Add a finished trial to those that are not run again."""
        self._records[record.number] = record
        if record.state == "complete":
            self._values.add(record.metrics)
        if self._setup.siblings and record.state == "complete" and keeps_all(self._setup.violations(record)):
            self._siblings.add(replace(record, metrics=self._values.filled(record.metrics)))
        if not record.runtime_installed_since:
            self._done.setdefault(recipe_key(record.recipe), record.number)
        if record.runtime_unavailable:
            self._unfit.append((record.recipe.get("runtime"), record.number))

    def _reconcile(self) -> None:
        """Pass records to the study that it missed before a crash, and reopen trials without a record."""
        import optuna

        for frozen in self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            number = frozen.user_attrs.get(NUMBER)
            if number is None:
                self._unfinished.append(frozen._trial_id)  # noqa: SLF001 - the id is what Trial() takes
                continue
            self._open[number] = frozen._trial_id  # noqa: SLF001
            if number in self._records:
                self.tell(self._records[number])
            elif number in self._setup.paused:
                trial = optuna.Trial(self._study, frozen._trial_id)  # noqa: SLF001
                self.paused.append(self._proposal(trial, self._drawn(trial)))
            else:
                del self._open[number]
                self._unfinished.append(frozen._trial_id)  # noqa: SLF001
        self._run_again()

    def _run_again(self) -> None:
        """Propose trials again whose result the study knows, and whose record was removed because it was damaged."""
        for frozen in self._study.get_trials(deepcopy=False):
            number = frozen.user_attrs.get(NUMBER)
            if number is not None and number not in self._records and frozen.state.is_finished():
                import optuna

                recipe = self._drawn(optuna.Trial(self._study, frozen._trial_id))  # noqa: SLF001
                self._waiting.append(Proposal(number, recipe, frozen.user_attrs.get("origin", "sampled")))

    @property
    def rebuilt(self) -> bool:
        """Return whether the study's database was damaged, and is made again from its journal and the records."""
        return self._file.damaged

    def _drawn(self, trial: optuna.Trial) -> Mapping[str, Any]:
        """Return the recipe of a trial, every field filled in; parameters that it lacks are drawn."""
        return self._setup.normal(self._setup.space.sample(OptunaChooser(trial, self._integers)).value)

    @property
    def numbers(self) -> set[int]:
        """Return the numbers of all trials that are finished or proposed."""
        known = {t.user_attrs[NUMBER] for t in self._study.get_trials(deepcopy=False) if NUMBER in t.user_attrs}
        return known | set(self._records) | set(range(len(self._setup.fixed)))

    def propose(self) -> Proposal | None:
        """Return the next trial, or None if the record of a running trial has to arrive first.

        Every other trial waits for the eager baseline; and if every draw was run before or is being run, a running
        trial may still fail and free its recipe.

        Raises:
            SpaceExhausted: every draw was run before, and no trial is running.
        """
        if self._no_new_recipe or (
            EAGER not in self._records and not (self._waiting and self._waiting[0].number == EAGER)
        ):
            return None
        if self._waiting:
            proposal = self._waiting.pop(0)
            self._proposed[proposal.number] = recipe_key(proposal.recipe)
            return proposal
        for draw in range(DRAWS):
            with self._drawing(evenly=draw >= TRUSTED):
                trial = self._ask()
                recipe = self._drawn(trial)
            same = self._equivalent_trial(recipe)
            if same is None:
                return self._proposal(trial, recipe)
            trial.set_user_attr(SAME_AS, same)
            self._tell(trial, self._records.get(same))
        if not self._proposed:
            raise SpaceExhausted
        self._no_new_recipe = True
        return None

    @contextmanager
    def _drawing(self, *, evenly: bool) -> Iterator[None]:
        """Draw by the sampler, or evenly over the space.

        Drawing evenly is needed because samplers ignore failed trials, and may repeat the recipe of one for ever.
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
            number, self._next = self._next, self._next + 1
            trial.set_user_attr(NUMBER, number)
        self._open[number] = trial._trial_id  # noqa: SLF001
        self._siblings.note(number, trial.params)
        self._proposed[number] = recipe_key(recipe)
        self._file.proposed(trial._trial_id)  # noqa: SLF001
        return Proposal(number, recipe, trial.user_attrs.get("origin", "sampled"))

    def _equivalent_trial(self, recipe: Mapping[str, Any]) -> int | None:
        """Return the number of a trial whose result a recipe would repeat; None if it has to be run.

        Such a trial has the same recipe, finished or running, or failed because the target cannot run the recipe's
        runtime.
        """
        key, runtime = recipe_key(recipe), recipe.get("runtime")
        running = (number for number, known in self._proposed.items() if known == key)
        unfit = (number for known, number in self._unfit if known == runtime)
        return next(running, self._done.get(key, next(unfit, None)))

    @property
    def baseline_failed(self) -> bool:
        """Return whether the eager baseline failed, or lacks a metric that the job names."""
        eager = self._records.get(EAGER)
        if eager is None or eager.state == "failed":
            return eager is not None
        unknown = any(metric not in eager.metrics for metric in self._setup.objectives)
        return unknown or any(math.isinf(violation) for violation in self._setup.violations(eager).values())

    def tell(self, record: Record) -> None:
        """Learn from a trial's record; a second call with it does nothing."""
        import optuna

        record = self._setup.view(record)
        self._remember(record)
        self._proposed.pop(record.number, None)
        self._no_new_recipe = False
        trial_id = self._open.pop(record.number, None)
        if trial_id is not None:
            trial = optuna.Trial(self._study, trial_id)
            self._tell(trial, record)
            self._enqueue_siblings(record, trial.params)

    def _enqueue_siblings(self, record: Record, params: Mapping[str, Any]) -> None:
        """Enqueue the same trained network on other runtimes, once, if the trial is on the front."""
        if not self._setup.siblings or record.state != "complete" or record.origin == SIBLING:
            return
        if not (points := self._siblings.of(record, params)) or not self._setup.trains(record.recipe):
            return
        before = len(self._study.get_trials(deepcopy=False))
        for point in self._siblings.untried(points):
            self._study.enqueue_trial(point, user_attrs={"origin": SIBLING})  # Optuna's own search for it is slow
        for frozen in self._study.get_trials(deepcopy=False)[before:]:
            self._file.changed(frozen._trial_id)  # noqa: SLF001 - ids are what Optuna's storages take

    def expect(self, number: int, metrics: Mapping[str, float]) -> None:
        """Note what is expected of a paused trial at the end of its training, for samplers that use it.

        Args:
            number: of the trial.
            metrics: expected ones, intervals among them.
        """
        import optuna

        if (trial_id := self._open.get(number)) is not None:
            trial = optuna.Trial(self._study, trial_id)
            trial.set_user_attr(OBSERVED, expected(metrics, list(self._setup.objectives), list(metrics)).tree())
            self._file.changed(trial_id)

    def _tell(self, trial: optuna.Trial, record: Record | None) -> None:
        """Pass a trial's result to Optuna, as failed if there is no record or a value is unknown.

        Optuna's own samplers take the expected values of a stopped trial for measured, or leave the trial out if one is
        unknown. The sampler ``conditional`` learns from the observation, which has each known value with its deviation.
        """
        import optuna

        if record is not None and record.state == "complete":
            record = replace(record, metrics=self._values.filled(record.metrics))
        result = result_of(record, list(self._setup.objectives), self._setup.violations)
        if result.observation is not None:
            trial.set_user_attr(OBSERVED, result.observation.tree())
        for key, violation in result.violations.items():
            trial.set_constraint(key, min(violation, UNKNOWN_VIOLATION))
        if result.values is not None:
            self._study.tell(trial, result.values)
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        self._file.changed(trial._trial_id)  # noqa: SLF001
