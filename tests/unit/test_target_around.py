"""On which target artefacts run when nobody says: that of the sweep or training they lie in."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import main
from paretune.cli.resolve import checked_target
from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.workflows import advise as advising
from paretune.workflows import evaluate as evaluations
from paretune.workflows import optimize as optimizations
from paretune.workflows import predict as predictions
from paretune.workflows import profile as profiles
from tests_support_advising import JOB, artefact_in_a_training
from tests_support_target import in_a_sweep


@pytest.mark.parametrize("said", ["no json", '{"job": {"targets": {"a": {"device": "abacus"}}}}'])
def test_a_target_that_cannot_be_read_can_be_named(tmp_path: Path, said: str) -> None:
    artefact = in_a_sweep(tmp_path / "odd")
    (tmp_path / "odd" / "sweep.json").write_text(said)
    with pytest.raises(UserError):
        asked([artefact])
    assert asked([artefact], device="cpu", threads=1) == Target()


def asked(folders: list[Path], device: str | None = None, threads: int | None = None) -> Target:
    return checked_target(Namespace(device=device, threads=threads), folders)


def test_what_is_left_out_is_as_in_the_job_around_and_what_is_said_wins(tmp_path: Path, capsys: Any) -> None:
    two = in_a_sweep(tmp_path / "two", device="cpu", threads=2)
    gpu = in_a_sweep(tmp_path / "gpu", device="cuda", threads=1)
    nowhere = tmp_path / "nowhere"
    assert asked([two]) == Target(threads=2)
    assert "target: cpu, 2 threads, which the artefact was made for" in capsys.readouterr().err
    assert asked([gpu, nowhere]) == Target(device="cuda")
    assert "target: cuda, which" in capsys.readouterr().err
    assert asked([two], threads=4) == Target(threads=4)
    assert asked([two], device="cuda") == Target(device="cuda")  # threads of a CPU mean nothing on it
    assert asked([gpu], device="cpu") == asked([nowhere]) == asked([]) == Target()
    assert asked([two, gpu], device="cpu") == Target(threads=2)
    capsys.readouterr()
    assert asked([in_a_sweep(tmp_path / "plain", device="cpu", threads=1)]) == Target()
    assert capsys.readouterr().err == ""


def test_artefacts_of_several_targets_want_one_named(tmp_path: Path) -> None:
    two = in_a_sweep(tmp_path / "two", device="cpu", threads=2)
    gpu = in_a_sweep(tmp_path / "gpu", device="cuda")
    with pytest.raises(UserError, match=r"two/.*gpu/"):
        asked([two, gpu])
    assert asked([two, gpu], device="cuda", threads=1) == Target(device="cuda")


@pytest.mark.parametrize(
    ("module", "function", "words"),
    [
        (profiles, "profile_artefacts", ["profile", "ARTEFACT"]),
        (advising, "advise_artefact", ["advise", "ARTEFACT"]),
        (evaluations, "evaluate_artefact", ["evaluate", "ARTEFACT"]),
        (predictions, "predict", ["predict", "ARTEFACT", "photo.jpg"]),
        (optimizations, "optimize", ["optimize", "ARTEFACT", "--runtime", "eager", "--out", "new"]),
    ],
)
def test_every_verb_that_runs_an_artefact_takes_it(
    module: Any, function: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reached(Exception):  # noqa: N818 - nothing is wrong
        pass

    def reached(*given: Any, **named: Any) -> None:
        targets = (getattr(one, "target", one) for one in [*given, *named.values()])
        raise Reached(next(one for one in targets if isinstance(one, Target)))

    monkeypatch.chdir(tmp_path)
    artefact = artefact_in_a_training(tmp_path / "runs" / "trainings" / "mine").folder
    (artefact.parent / "job.yaml").write_text(f"{JOB}targets: {{here: {{threads: 2}}}}\n")
    monkeypatch.setattr(module, function, reached)
    words = [str(artefact) if word == "ARTEFACT" else word for word in words]
    for more, threads in (([], 2), (["--threads", "1"], 1)):
        with pytest.raises(Reached) as told:
            main([*words, *more])
        assert told.value.args == (Target(threads=threads),)
