"""Records the recipes of a table: networks at several epochs of fine-tuning, each with every deployment.

Everything is done by the functions that a sweep uses. A recipe is cut before its deployment, so that its network is
trained once.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from figures import BENCH, ROOT, paretune, photographs
from search_meters import Epochs, SharedExports, meter
from search_rows import (
    DEPLOY,
    RUNGS,
    SPACE,
    TABLES,
    Network,
    Row,
    append,
    deployments,
    label_of,
    network_params,
    recipe_of,
)

from paretune.compression.base import Context, Step
from paretune.config.plan import Plan, read_plan
from paretune.config.recipe import Recipe
from paretune.core.errors import one_line
from paretune.core.yaml_document import read_value
from paretune.profiling.environment import cpu_name
from paretune.storage.artefact import MANIFEST, NETWORK
from paretune.workflows.build_artefact import InitialArtefactNetwork, build
from paretune.workflows.recipe_source import RecipeImages
from paretune.workflows.stages import Stages
from paretune.workflows.trial_context import step_context

SCRATCH = Path(os.environ.get("PARETUNE_TABLES", BENCH / "tables"))
REFERENCE: dict[str, Any] = {DEPLOY: "onnxruntime"}
"""Deployment of the uncompressed network beside which latencies are measured."""
LOWER = {"onnxruntime", "onnxruntime_int8-onnxruntime-0", "openvino_int8-nncf-minmax"}
"""Deployments that are recorded at the lower rungs: the precisions between which the epochs decide."""


@dataclass(frozen=True)
class Source:
    """Job of a table, with what is set in it."""

    job: str
    settings: dict[str, str]
    data: tuple[str, str]
    """Field of the dataset's folder, and the folder below the photographs."""


SOURCES = {
    "yolo": Source(
        "voc",
        {
            "input_size": "192x160",
            "training": "{epochs: 40, batch_size: 4, lr: 8e-3, warmup_epochs: 2, weight_decay: 0.05, ema: 0.97}",
        },
        ("dataset.voc.root", "bccd/BCCD"),
    ),
    "ssd": Source(
        "voc_flat",
        {
            "detector": "{ssd: {variant: ssdlite320_mobilenet_v3_large}}",
            "input_size": "160",
            "training": "{epochs: 80, batch_size: 8, lr: 3e-3, warmup_epochs: 3, ema: 0.98}",
        },
        ("dataset.voc_flat.root", "playing_cards/images"),
    ),
}
"""Table → its job: the first one is for choosing, the second one for judging."""


def part_of(whole: Recipe, steps: Sequence[Step]) -> Recipe:
    """Return a recipe of some steps of another one; a copy of that would keep its chain."""
    return Recipe(input_size=whole.input_size, steps=tuple(steps), runtime=whole.runtime)


def plan_of(name: str, root: Path | None = None) -> Plan:
    """Return job and space of a table; without a folder of photographs, those of another machine."""
    source = SOURCES[name]
    field_name, folder = source.data
    written = {key: read_value(value, key) for key, value in source.settings.items()}
    overrides = {field_name: str((root or Path("/")) / folder), **written, "space": str(SPACE)}
    return read_plan(ROOT / "jobs" / f"{source.job}.yaml", overrides, here=root is not None)


class Recorder:
    """Carries out the recipes of one table.

    Args:
        name: of the table.
    """

    def __init__(self, name: str) -> None:
        from paretune.core.target import Target

        self.name, self.source = name, SOURCES[name]
        self.folder, self.file = SCRATCH / name, TABLES / f"{name}.jsonl"
        self.plan: Plan = plan_of(name, photographs())
        self.job, self.space = self.plan.job, self.plan.space
        self.images = RecipeImages(
            self.job.dataset,
            self.folder / "datasets",
            self.job.training.model_copy(update={"threads": 1, "checkpoint_every": 1}),
        )
        self.data = self.job.dataset.open(self.images.cache)
        self.target, self.exports = Target(threads=1), SharedExports()

    @property
    def baseline(self) -> Path:
        """Return the folder of the trained network, which is trained if it does not exist."""
        folder = self.folder / "trainings" / "baseline"
        if not (folder / "artefact").is_dir():
            sets = {
                **self.source.settings,
                self.source.data[0]: str(photographs() / self.source.data[1]),
                "output": str(self.folder),
                "tracking.trainings": "false",
                "training.device": "cpu",
                "training.threads": "1",
            }
            words = ["train", f"jobs/{self.source.job}.yaml", "--name", "baseline", "--test"]
            words += [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
            print(paretune(*words, *(["--resume"] if folder.is_dir() else [])).stdout, flush=True)
        return folder

    @property
    def reference(self) -> Path:
        """Return the artefact beside which latencies are measured, which is made if it does not exist."""
        folder, work = self.folder / "reference", self.folder / "reference-work"
        if not (folder / MANIFEST).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            params = {**network_params(self.space, 0), **REFERENCE}
            recipe = Recipe.model_validate(recipe_of(self.space, params))
            start = InitialArtefactNetwork(self.baseline)
            build(start, recipe, self.context(recipe, work), folder, meter(), idle=False)
            shutil.rmtree(work, ignore_errors=True)
        return folder

    def context(self, recipe: Recipe, workdir: Path) -> Context:
        """Return what the steps of a recipe may use."""
        workdir.mkdir(parents=True, exist_ok=True)
        return step_context(
            recipe,
            self.images,
            self.data,
            detector=self.job.detector,
            baseline=self.baseline,
            target=self.target,
            thresholds=self.job.thresholds.thresholds,
            workdir=workdir,
        )

    def record(self, number: int) -> None:
        """Carry out a recipe with every deployment, and append its rows to the table."""
        folder = self.folder / "networks" / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        params = network_params(self.space, number)
        stages, epochs, rows = meter(), Epochs(folder / "work"), list[Row]()
        failure = None
        try:
            networks = self._networks(params, folder, stages, epochs)
        except (AttributeError, ImportError, NameError):  # a mistake of the recorder itself
            raise
        except Exception as error:  # noqa: BLE001 - a recipe may fail in any way, and the table goes on
            failure = f"{type(error).__name__}: {one_line(error)}"
            networks = {}
        for rung, start in networks.items():
            with self.exports():
                for deploy in deployments(self.space):
                    if rung == max(networks) or label_of(deploy) in LOWER:
                        rows.append(self._deployed(number, rung, start, {**params, **deploy}, folder))
        append(self.file, Network(number, params, stages.seconds, epochs.seconds, failure, cpu_name()), *rows)
        shutil.rmtree(folder / "work", ignore_errors=True)

    def _networks(
        self, params: Mapping[str, Any], folder: Path, stages: Stages, epochs: Epochs
    ) -> dict[int, InitialArtefactNetwork]:
        """Return the compressed network of each rung: fine-tuning is carried out once."""
        whole = Recipe.model_validate(recipe_of(self.space, {**params, **REFERENCE}))
        tuned = next((place for place, step in enumerate(whole.steps) if step.name == "finetune"), None)
        before = whole.steps if tuned is None else whole.steps[:tuned]
        rungs = {0: self._built(InitialArtefactNetwork(self.baseline), whole, before, folder / "0", stages, epochs)}
        if tuned is None:
            return rungs
        after = whole.steps[tuned + 1 :]
        step = whole.steps[tuned : tuned + 1]
        rungs[RUNGS[-1]] = last = self._built(rungs[0], whole, step, folder / "last", stages, epochs)
        for rung in RUNGS[1:-1]:
            rungs[rung] = self._rung(last, epochs.file(rung), folder / f"rung-{rung}")
        if not after:
            return dict(sorted(rungs.items()))
        own, other = stages, meter()
        return {
            rung: self._built(start, whole, after, folder / f"{rung}-end", own if rung == RUNGS[-1] else other, epochs)
            for rung, start in sorted(rungs.items())
        }

    def _built(
        self,
        start: InitialArtefactNetwork,
        whole: Recipe,
        steps: Sequence[Step],
        folder: Path,
        stages: Stages,
        epochs: Epochs,
    ) -> InitialArtefactNetwork:
        """Return the network after some steps of a recipe."""
        if not steps:
            return start
        recipe = part_of(whole, steps)
        context = replace(self.context(recipe, folder.parent / "work"), progress=epochs.progress)
        artefact = build(start, recipe, context, folder, stages, idle=False).artefact
        kept = artefact.kept
        assert kept is not None, "an exported artefact keeps its network"
        return InitialArtefactNetwork(folder / NETWORK, kept.steps, kept.notes)

    def _rung(self, last: InitialArtefactNetwork, state: Path, folder: Path) -> InitialArtefactNetwork:
        """Return the network that a fine-tuning had after a rung."""
        import torch

        from paretune.networks.network_files import load_network, save_network

        saved = torch.load(state, map_location="cpu", weights_only=True)
        weights = saved["average"] or saved["network"]
        network = load_network(self.job.detector, len(self.data.classes), last.folder)
        network.load_state_dict(
            {name: weights.get(name, weights.get(f"network.{name}")) for name in network.state_dict()}
        )
        save_network(network, folder)
        return replace(last, folder=folder)

    def _deployed(
        self, number: int, rung: int, start: InitialArtefactNetwork, params: Mapping[str, Any], folder: Path
    ) -> Row:
        """Make and evaluate the artefact of a network for one deployment."""
        deploy = {name: value for name, value in params.items() if name.startswith(DEPLOY)}
        whole = Recipe.model_validate(recipe_of(self.space, params))
        own = self._steps_of_deployment(params)
        recipe = part_of(whole, whole.steps[len(whole.steps) - own :] if own else ())
        place, stages = folder / "artefacts" / f"{rung}-{label_of(deploy)}", meter()
        charged = self.exports.charged
        try:
            context = self.context(recipe, folder / "work" / place.name)
            artefact = build(start, recipe, context, place, stages, idle=False).artefact
            if shared := self.exports.charged - charged:
                stages.seconds["export"] = round(stages.seconds.get("export", 0.0) + shared, 3)
            with stages.stage("evaluate"):
                metrics = self._evaluated(place)
        except (AttributeError, ImportError, NameError):  # a mistake of the recorder itself
            raise
        except Exception as error:  # noqa: BLE001 - an artefact may fail in any way, and the table goes on
            return Row(number, rung, deploy, stages.seconds, failure=f"{type(error).__name__}: {one_line(error)}")
        metrics |= {"size_mib": artefact.size_mib, "params": artefact.params, "flops": artefact.flops}
        known = {name: float(f"{value:.6g}") for name, value in metrics.items() if value is not None}
        shutil.rmtree(place / NETWORK, ignore_errors=True)
        if rung != RUNGS[-1] and start.steps and any("finetune" in step for step in start.steps):
            shutil.rmtree(place)
        return Row(number, rung, deploy, stages.seconds, known)

    def _steps_of_deployment(self, params: Mapping[str, Any]) -> int:
        plain = {name: value for name, value in params.items() if not name.startswith(DEPLOY)}
        whole, without = (recipe_of(self.space, {**plain, **end}) for end in (params, REFERENCE))
        return len(whole.get("steps", ())) - len(without.get("steps", ()))

    def _evaluated(self, folder: Path) -> dict[str, float | None]:
        """Return the accuracy of an artefact on ``val``, and the CPU time of its network on an image."""
        from statistics import median

        from paretune.evaluation.accuracy import evaluate
        from paretune.runtimes.predictor import load_predictor

        predictor, times = load_predictor(folder, self.target), list[float]()
        core = predictor.core

        def timed(batch: Any) -> Any:
            start = time.process_time()
            raw = core(batch)
            times.append(1000 * (time.process_time() - start))
            return raw

        accuracy = evaluate(replace(predictor, core=timed), self.data.splits["val"])  # type: ignore[arg-type]
        kept = ("map", "map50", "precision", "recall", "f1")
        return {**{name: getattr(accuracy, name) for name in kept}, "network_cpu_ms": median(times)}
