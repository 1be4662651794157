"""The steps of a recipe one after another, each result taken from the stage store where it is there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.compression.base import Context, with_past_steps
from paretune.compression.saved_model import load_model, save_model
from paretune.compression.stage_key import network_key, step_key
from paretune.config.recipe import Recipe
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.storage.stage_store import StageStore
from paretune.system.device_lock import shared_device
from paretune.workflows.stages import Stages

if TYPE_CHECKING:
    from paretune.runtimes.artefact_writer import FloatNetwork

DEAR = 1.0
"""Seconds that the steps since the last stored result must have taken for a result to be stored."""


@dataclass(frozen=True)
class InitialArtefactNetwork:
    """A trained network on disk."""

    folder: Path
    """Weights and structure."""
    steps: tuple[dict[str, Any], ...] = ()
    """Steps already applied to it, as they are written; later steps take them into account."""
    notes: tuple[str, ...] = ()
    """Notes of these steps."""


@dataclass
class StepChain:
    """One run of a recipe's steps."""

    start: InitialArtefactNetwork
    recipe: Recipe
    context: Context
    stages: Stages
    store: StageStore | None = None
    """Results of steps; None computes all of them."""
    idle: bool = field(default=True, kw_only=True)
    """Whether a step may change nothing."""
    before: FloatNetwork = field(init=False)
    """Last float network before export and quantization."""
    changed: bool = field(default=False, init=False)
    """Whether the model differs from ``before`` intentionally: quantized, or clustered after the export."""
    trained: bool = field(default=False, init=False)
    """Whether ``before`` was trained by a step."""
    _before: tuple[Model, str] | None = field(default=None, init=False)
    """Model and key of ``before``; None while it is the initial network."""
    _unstored: float = field(default=0.0, init=False)
    """Seconds of the steps since the last result that is in the store."""

    def run(self) -> Model:
        """Apply the steps and return the model; ``before``, ``changed`` and ``trained`` are those of the last step.

        Raises:
            UserError: there is no network, a step found a mistake of the user, or a step changed nothing.
            FloatingPointError: a training diverged.
            RuntimeError: a step failed.
            TrialStopped: the trial is to end.
        """
        from paretune.networks.network_files import count, load_network
        from paretune.runtimes.artefact_writer import FloatNetwork

        context, recipe, start = self.context, self.recipe, self.start
        with self.stages.stage("load"):
            network = load_network(context.detector, len(context.classes), start.folder)
            params, flops = count(network, recipe.size)
        self.before = FloatNetwork(network, start.steps, start.notes)
        model = with_past_steps(Model(network, None, recipe.size, (), start.notes, params, flops), start.steps)
        keys = self._keys()
        first, model = self._deepest(keys, model)
        for number in range(first, len(recipe.chain)):
            model = self._applied(number, model, keys[number])
        return model

    def _keys(self) -> list[str]:
        """Return the key of each step's result; empty strings without a store, for which there is no need of them."""
        chain = self.recipe.chain
        if self.store is None:
            return [""] * len(chain)
        keys = [network_key(self.start.folder, self.context, self.recipe.size, self.start.steps)]
        for step in chain:
            keys.append(step_key(keys[-1], step, self.context))
        return keys[1:]

    def _deepest(self, keys: list[str], model: Model) -> tuple[int, Model]:
        """Return the number of the first step that is left, and the model before it, from the store if it is there."""
        if self.store is not None:
            for number in reversed(range(len(keys))):
                if (stored := self._stored(number, keys[number])) is not None:
                    return number + 1, stored
        return 0, model

    def _applied(self, number: int, model: Model, key: str) -> Model:
        """Return the result of a step, computed here or by another trial in the meantime."""
        step = self.recipe.chain[number]
        self.context.progress(step.name)
        with nullcontext() if self.store is None else self.store.making(key):
            if self.store is not None and (stored := self._stored(number, key)) is not None:
                return stored
            before = self.stages.seconds.get(step.name, 0.0)
            with self.stages.stage(step.name, key or None), nullcontext() if step.locks else shared_device("cpu"):
                result = step.apply(model, self.context)
            self._unstored += self.stages.seconds[step.name] - before
            self._refuse_unchanged(result)
            changed = self.changed or step.final or model.file is not None
            is_float = result.network is not None and not changed
            self._took(number, result, key, changed=changed, trained=self.trained or (step.trains and is_float))
            if self.store is not None and self._unstored >= DEAR:
                self._write(number, result, key)
        self.stages.decide_after(step.name)
        return result

    def _took(self, number: int, model: Model, key: str, *, changed: bool, trained: bool) -> None:
        """Set what the result of a step means for the float network before export and quantization.

        Args:
            number: of the step.
            model: result of the step.
            key: of the result.
            changed: whether a step so far changed the model after its export, or quantized it.
            trained: whether a step that trains made the float network.
        """
        from paretune.runtimes.artefact_writer import FloatNetwork

        self.changed, self.trained = changed, trained
        if model.network is not None and not changed:
            self._before = (model, key)
            self.before = FloatNetwork(model.network, self._steps(number), model.notes)

    def _steps(self, number: int) -> tuple[dict[str, Any], ...]:
        """Return the written steps of the float network after a step of the chain; no conversion comes before it."""
        return (*self.start.steps, *self.recipe.tree()["steps"][: number + 1])

    def _stored(self, number: int, key: str) -> Model | None:
        """Return the result of a step from the store; None if it is not there."""
        assert self.store is not None  # noqa: S101 - asked by the callers
        folder = self.context.workdir / f"stored-{key}"
        facts = self.store.read(key, folder)
        if facts is None:
            return None
        if facts["float"] is not None:
            float_folder = self.context.workdir / f"stored-{facts['float']['key']}"
            float_facts = self.store.read(facts["float"]["key"], float_folder)
            if float_facts is None:
                return None
            before, stage = load_model(float_facts["model"], float_folder, self.context), facts["float"]
            self._took(stage["number"], before, stage["key"], changed=False, trained=facts["trained"])
        model = load_model(facts["model"], folder, self.context)
        self._refuse_unchanged(model)
        self._took(number, model, key, changed=facts["changed"], trained=facts["trained"])
        self._unstored = 0.0
        self.stages.reused(self.recipe.chain[number].name, key)
        return model

    def _write(self, number: int, model: Model, key: str) -> None:
        """Write the result of a step to the store, after the float network that its reader needs."""
        float_stage = None
        if self._before is not None and self._before[1] != key:
            float_model, float_key = self._before
            float_number = len(self.before.steps) - len(self.start.steps) - 1
            self._write_one(float_number, float_model, float_key, {"float": None, "changed": False})
            float_stage = {"key": float_key, "number": float_number}
        if self._write_one(number, model, key, {"float": float_stage, "changed": self.changed}):
            self._unstored = 0.0

    def _write_one(self, number: int, model: Model, key: str, facts: Mapping[str, Any]) -> bool:
        """Write one model to the store unless it is there; return whether it is there now."""
        assert self.store is not None  # noqa: S101 - asked by the caller
        if self.store.entry(key) is not None:
            return True
        folder = Path(tempfile.mkdtemp(prefix="stage-", dir=self.context.workdir))
        try:
            saved = save_model(model, folder)
            step = self.recipe.chain[number].named()
            return self.store.write(key, folder, {**facts, "model": saved, "trained": self.trained, "step": step})
        except (OSError, ValueError) as error:
            self.context.progress(f"the result of {self.recipe.chain[number].name} cannot be stored: {error}")
            return False
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _refuse_unchanged(self, model: Model) -> None:
        """Raise a UserError if the last step changed nothing: the recipe without it is that of another trial."""
        if not self.idle and not model.changed:
            raise UserError(f"refused: {model.notes[-1]}; without it the recipe is another trial's")
