"""Verbs on a Ray cluster: what is asked of its job API, which a client notes, and what is said of what is not there."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from paretune.cli.main import main
from paretune.cli.remote import without
from paretune.core.errors import UserError
from paretune.distributed import cluster_verbs, ray_jobs
from paretune.distributed.verb_answer import VerbAnswer, answer_in
from tests_support_documented import printed

ADDRESS = "http://head:8265"


class Client:
    """Ray's job API without a cluster: jobs end as soon as they are looked at."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []
        self.logs: dict[str, str] = {}
        self.gone: list[str] = []

    def add(self, name: str, state: JobStatus, output: str | None = "/shared/runs") -> str:
        told = {"paretune_sweep": name} | ({} if output is None else {"paretune_output": output})
        return self.submit_job(entrypoint="", runtime_env={}, metadata=told, state=state)

    def submit_job(self, *, entrypoint: str, runtime_env: Any, metadata: dict[str, str], state: Any = None) -> str:
        name = f"raysubmit_{len(self.jobs)}"
        state = state or JobStatus.SUCCEEDED
        job = {"submission_id": name, "metadata": metadata, "status": state, "start_time": 1000 * len(self.jobs)}
        self.jobs.append(
            SimpleNamespace(**job, entrypoint=entrypoint, runtime_env=runtime_env, message="no such module")
        )
        return name

    def _job(self, name: str) -> Any:
        return next(job for job in self.jobs if job.submission_id == name)

    def list_jobs(self) -> list[Any]:
        return list(self.jobs)

    def get_job_status(self, name: str) -> JobStatus:
        return self._job(name).status

    def get_job_info(self, name: str) -> Any:
        return self._job(name)

    def get_job_logs(self, name: str) -> str:
        return self.logs.get(name, "")

    def stop_job(self, name: str) -> None:
        self._job(name).status = JobStatus.STOPPED

    def delete_job(self, name: str) -> None:
        self.gone.append(name)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()

    @contextmanager
    def connected(_address: str) -> Iterator[Client]:
        yield made

    for module in (ray_jobs, cluster_verbs):
        monkeypatch.setattr(module, "connected", connected)
    return made


def test_a_submitted_sweep_goes_on_in_its_folder_by_a_new_job(client: Client, capsys: Any) -> None:
    client.add("cells", JobStatus.FAILED, "/shared/old")
    client.add("cells", JobStatus.FAILED)
    words = ["resume", "cells", "--trials", "9", "--address", ADDRESS, "--accept-changes", "--no-wait"]
    assert main(words) == 0
    sent = client.jobs[-1]
    typed = [
        "python",
        "-m",
        "paretune",
        "resume",
        "cells",
        "--runs",
        "/shared/runs",
        "--trials",
        "9",
        "--accept-changes",
    ]
    assert shlex.split(sent.entrypoint) == [*typed, "--address", "auto"]
    assert sent.metadata == {"paretune_sweep": "cells", "paretune_output": "/shared/runs"}
    assert int(sent.runtime_env["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60  # a trial ends, and writes its record
    (hint,) = printed(capsys.readouterr().out)
    assert hint.endswith(f"status {sent.submission_id} --address {ADDRESS}")


def test_a_sweep_that_runs_is_not_run_twice(client: Client, capsys: Any) -> None:
    client.add("cells", JobStatus.RUNNING)
    assert main(["resume", "cells", "--address", ADDRESS]) == 2
    (hint,) = printed(capsys.readouterr().err)
    assert hint.endswith(f"logs raysubmit_0 --address {ADDRESS}")
    assert len(client.jobs) == 1


@pytest.mark.parametrize("words", [["resume", "cells"], ["front", "cells"], ["show", "cells", "3"]])
def test_after_a_heads_end_the_folder_must_be_named(words: list[str], client: Client, capsys: Any) -> None:
    assert main([*words, "--address", ADDRESS]) == 2
    assert "--runs" in capsys.readouterr().err
    assert main([*words, "--address", ADDRESS, "--runs", "here"]) == 2
    assert "absolute" in capsys.readouterr().err
    assert client.jobs == []


@pytest.mark.parametrize("verb", ["stop", "status", "logs"])
def test_an_unknown_sweep_is_told_with_how_to_go_on(verb: str, client: Client, capsys: Any) -> None:
    client.add("others", JobStatus.RUNNING)
    assert main([verb, "cells", "--address", ADDRESS]) == 2
    (hint,) = printed(capsys.readouterr().err)
    assert hint.endswith(f"resume cells --runs FOLDER --address {ADDRESS}")


def test_a_sweep_is_stopped_by_its_name_and_the_newest_of_that_name(client: Client, capsys: Any) -> None:
    client.add("cells", JobStatus.SUCCEEDED)
    client.add("cells", JobStatus.RUNNING)
    client.add("others", JobStatus.RUNNING)
    assert main(["stop", "cells", "--address", ADDRESS]) == 0
    assert [job.status.value for job in client.jobs] == ["SUCCEEDED", "STOPPED", "RUNNING"]
    (hint,) = printed(capsys.readouterr().out)
    assert hint.endswith(f"resume cells --address {ADDRESS}")


def test_a_log_is_printed_as_it_is(client: Client, capsys: Any) -> None:
    client.logs[client.add("cells", JobStatus.SUCCEEDED)] = "trial 0\ntrial 1\n"
    assert main(["logs", "cells", "--address", ADDRESS]) == 0
    assert capsys.readouterr().out == "trial 0\ntrial 1\n"


def test_a_verb_is_answered_by_the_cluster_with_what_it_printed_there(client: Client, capsys: Any) -> None:
    client.add("cells", JobStatus.RUNNING)
    answer = VerbAnswer(1, "the front ★\n", "a warning\n")
    client.logs["raysubmit_1"] = f"noise of Ray\n{answer.line()}\n"
    assert main(["front", "cells", "--json", f"--address={ADDRESS}"]) == 1
    assert tuple(capsys.readouterr()) == ("the front ★\n", "a warning\n")
    typed = shlex.split(client.jobs[-1].entrypoint)
    assert typed == [
        "python",
        "-m",
        "paretune.distributed.verb_answer",
        "front",
        "cells",
        "--json",
        "--runs",
        "/shared/runs",
    ]
    assert client.gone == ["raysubmit_1"]


def test_a_verb_without_an_answer_tells_the_end_of_its_log(client: Client, capsys: Any) -> None:
    client.add("cells", JobStatus.RUNNING)
    client.logs["raysubmit_1"] = "Traceback …\nModuleNotFoundError: No module named 'numpy'\n"
    assert main(["list", "--runs", "/shared/runs", "--address", ADDRESS]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No module named 'numpy'" in line


def test_a_list_of_a_cluster_needs_the_folder(capsys: Any) -> None:
    assert main(["list", "--address", ADDRESS]) == 2
    assert "--runs" in capsys.readouterr().err


def test_the_answer_of_a_real_process_is_the_verbs_own(tmp_path: Path, capsys: Any) -> None:
    from paretune.distributed.verb_answer import main as run_verb

    assert run_verb(["front", "cells", "--runs", str(tmp_path)]) == 0
    answer = answer_in("before\n" + capsys.readouterr().out)
    assert answer is not None
    assert main(["front", "cells", "--runs", str(tmp_path)]) == answer.code == 2
    assert answer.err == capsys.readouterr().err
    assert answer_in("no answer\n") is None


def test_options_are_left_out_with_their_values() -> None:
    words = ["resume", "a", "--runs", "x", "--trials", "3", "--addr=y", "--no-wait", "--json"]
    left = without(words, "--address", "--runs", "--no-wait", flags=("--no-wait",))
    assert left == ["resume", "a", "--trials", "3", "--json"]


def test_a_folder_that_ends_with_the_job_is_refused() -> None:
    with pytest.raises(UserError, match="absolute"):
        ray_jobs.submit({"output": "runs"}, "", [], "cells", ADDRESS, lambda _: None, wait=False)
