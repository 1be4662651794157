"""What every sampler must do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from paretune.core.registry import Registry
from paretune.core.yaml_document import read_yaml
from paretune.search.samplers import SAMPLERS, Sampler
from paretune.search.space_reader import read_space
from paretune.search.study import Study
from paretune.search.study_database import StudyDatabase
from paretune.search.study_settings import Proposal, StudySettings
from paretune.storage.trial_record import Record
from paretune.testing.plugin_contract import PluginContract

SPACE = """\
input_size: {choices: [64, 96, 128, 160, 192, 224, 256, 288]}
steps:
  - prune: {ratio: {low: 0.0, high: 0.6, step: 0.1}}
runtime: onnxruntime
"""
BASELINES = ({"runtime": "eager"}, {"runtime": "onnxruntime"})
OBJECTIVES: Mapping[str, Any] = {"map": "maximize", "latency_ms": "minimize"}


class SamplerContract(PluginContract):
    """Tests of one sampler in a study of two objectives."""

    plugin: ClassVar[Sampler]
    table: ClassVar[Registry[Any]] = SAMPLERS
    table_module = "paretune.search.samplers"
    table_name = "SAMPLERS"
    heavy = ("torch", "optuna", "ray", "mlflow")

    def test_proposes_inside_the_space(self, subject: Sampler, tmp_path: Path) -> None:
        """Every proposal lies on the grid of the space, and none is proposed twice."""
        recipes = [proposal.recipe for proposal in searched(subject, tmp_path, 12)]
        for recipe in recipes:
            ratio = recipe["steps"][0]["prune"]["ratio"]
            assert min(abs(ratio - k / 10) for k in range(7)) < 1e-12
            assert recipe["input_size"] in range(64, 289, 32)
        assert len({str(recipe) for recipe in recipes}) == len(recipes)

    def test_the_same_seed_proposes_the_same(self, subject: Sampler, tmp_path: Path) -> None:
        """Two studies with one seed and equal results propose equal recipes."""
        places = (tmp_path / "one", tmp_path / "other")
        for place in places:
            place.mkdir()
        one, other = (searched(subject, place, 5) for place in places)
        assert [proposal.recipe for proposal in one] == [proposal.recipe for proposal in other]


def searched(sampler: Sampler, folder: Path, count: int) -> list[Proposal]:
    """Return the first proposals of a search after its baselines; each is told an invented result."""
    (folder / "space.yaml").write_text(SPACE)
    settings = StudySettings(
        space=read_space(read_yaml(folder / "space.yaml")),
        objectives=OBJECTIVES,
        violations=lambda _: {},
        sampler=sampler,
        seed=0,
        normal=lambda recipe: recipe,
        fixed=[(recipe, "baseline") for recipe in BASELINES],
    )
    study, proposals = Study(StudyDatabase(folder / "study.db", "contract"), settings, ()), []
    for number in range(len(BASELINES) + count):
        proposal = study.propose()
        assert proposal is not None
        proposals.append(proposal)
        pruned = proposal.recipe["steps"][0]["prune"]["ratio"] if number >= len(BASELINES) else 0.0
        metrics = {"map": 0.5 - pruned / 3, "latency_ms": 10 - number / 4}
        study.tell(
            Record.complete(
                number, proposal.recipe, {}, proposal.origin,
                metrics=metrics, reasons={}, notes=(), artefact=None, started=time.time(),
            )
        )  # fmt: skip
    study.close()
    return proposals[len(BASELINES) :]
