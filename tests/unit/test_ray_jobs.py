"""Verbs on a Ray cluster: what is asked of its job API, which a client notes, and what is said of what is not there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from paretune.cli.main import main
from paretune.cli.remote import without
from paretune.core.errors import UserError
from paretune.distributed import cluster_verbs, forwarded_env, ray_jobs
from paretune.distributed.job_environment import Carried
from paretune.distributed.plugin_packages import copy_packages, plugin_packages
from paretune.distributed.verb_answer import MADE, VerbAnswer, answer_in, folder_line
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
    seen = {"state": "stopped", "done": 3, "budget": 9, "name": "cells"}
    client.logs["raysubmit_3"] = VerbAnswer(1, json.dumps(seen), "").line()
    assert main(["stop", "cells", "--address", ADDRESS, "--json"]) == 0
    assert [job.status.value for job in client.jobs[:3]] == ["SUCCEEDED", "STOPPED", "RUNNING"]
    told = capsys.readouterr()
    (hint,) = printed(told.err)
    assert hint.endswith(f"resume cells --address {ADDRESS}")
    assert json.loads(told.out)["folder"] == {"state": "stopped", "done": 3, "budget": 9}


@pytest.mark.parametrize("answer", [None, VerbAnswer(1, '{"state": "running", "done": 1, "budget": 9}', "")])
def test_a_stop_is_not_said_to_be_whole_where_that_was_not_seen(
    answer: VerbAnswer | None, client: Client, capsys: Any
) -> None:
    client.add("cells", JobStatus.RUNNING)
    if answer is not None:
        client.logs["raysubmit_1"] = answer.line()
    assert main(["stop", "cells", "--address", ADDRESS]) == 1
    assert ("could not be looked at" in capsys.readouterr().err) == (answer is None)


def test_what_a_head_forgot_is_listed_from_the_folder(client: Client, capsys: Any) -> None:
    client.add("cells", JobStatus.RUNNING)
    client.add("lost", JobStatus.RUNNING, "/other/runs")
    sweeps = [{"name": name, "state": "stopped", "done": 4} for name in ("cells", "lost")]
    client.logs["raysubmit_2"] = VerbAnswer(0, json.dumps({"sweeps": sweeps}), "").line()
    assert main(["status", "--address", ADDRESS, "--runs", "/shared/runs"]) == 0
    (hint,) = printed(capsys.readouterr().out)
    assert hint.endswith(f"resume lost --runs /shared/runs --address {ADDRESS}")
    assert main(["status", "cells", "--address", ADDRESS, "--runs", "/shared/runs"]) == 2


@pytest.mark.parametrize("verb", ["pick", "export"])
def test_a_bundle_is_chosen_there_and_written_here(verb: str, client: Client, tmp_path: Path, capsys: Any) -> None:
    client.add("cells", JobStatus.SUCCEEDED)
    there, here = tmp_path / "there", tmp_path / 'a "here"'
    (there / "model").mkdir(parents=True)
    (there / "model" / "weights").write_bytes(bytes(range(256)) * 999)
    answer = VerbAnswer(0, json.dumps({"folder": MADE}), "", wrote=True)
    client.logs["raysubmit_1"] = f"noise\n{folder_line(there)}\n{answer.line()}\n"
    words = [verb, "raysubmit_0", "--max-drop", "0.01", "--out", str(here), "--address", ADDRESS, "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(here)}
    assert (here / "model" / "weights").read_bytes() == bytes(range(256)) * 999
    typed = shlex.split(client.jobs[-1].entrypoint)
    start = typed.index("--fetch")
    assert typed[start:] == ["--fetch", verb, "cells", "--max-drop", "0.01", "--json", "--runs", "/shared/runs"]


def test_a_bundle_that_was_damaged_on_its_way_is_not_kept(client: Client, tmp_path: Path, capsys: Any) -> None:
    client.add("cells", JobStatus.SUCCEEDED)
    (tmp_path / "there").mkdir()
    sent = folder_line(tmp_path / "there")
    client.logs["raysubmit_1"] = f"{sent[:-8]}AAAAAAAA\n{VerbAnswer(0, '', '', wrote=True).line()}\n"
    assert main(["pick", "cells", "--out", str(tmp_path / "here"), "--address", ADDRESS]) == 2
    assert "as it was sent" in capsys.readouterr().err
    assert not (tmp_path / "here").exists()


def test_a_bundle_needs_a_folder_here(client: Client, capsys: Any) -> None:
    assert main(["pick", "cells", "--address", ADDRESS]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["export", "cells", "--out", "x", "--archive", ".zip", "--address", ADDRESS]) == 2
    assert "--archive" in capsys.readouterr().err
    assert client.jobs == []


def test_a_resumed_sweep_takes_along_what_it_was_submitted_with(
    client: Client, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("OWN_TOKEN", "very-secret")
    monkeypatch.setenv("FURTHER", "too")
    seen = list[Any]()
    read = client.submit_job

    def submit_job(*, runtime_env: Any, **more: Any) -> str:
        file = Path(runtime_env["working_dir"], forwarded_env.FILE)
        seen.append((json.loads(file.read_text()), file.stat().st_mode & 0o777))
        return read(runtime_env=runtime_env, **more)

    monkeypatch.setattr(client, "submit_job", submit_job)
    job = {"output": "/shared/runs"}
    monkeypatch.setattr(ray_jobs, "living_nodes", lambda _: [])
    carried = Carried(("OWN_TOKEN",), ("wheel>=1",))
    ray_jobs.submit(job, "", [], "cells", ADDRESS, lambda _: None, wait=False, carried=carried)
    client.jobs[0].status = JobStatus.STOPPED
    assert main(["resume", "cells", "--address", ADDRESS, "--no-wait", "--env", "FURTHER", "--trials", "9"]) == 0
    assert seen == [({"OWN_TOKEN": "very-secret"}, 0o600), ({"OWN_TOKEN": "very-secret", "FURTHER": "too"}, 0o600)]
    assert client.jobs[1].runtime_env["pip"] == ["wheel>=1"]
    assert shlex.split(client.jobs[1].entrypoint)[3:] == [
        *("resume", "cells", "--runs", "/shared/runs", "--trials", "9", "--address", "auto")
    ]
    assert "very-secret" not in repr(client.jobs) + "".join(capsys.readouterr())
    client.jobs[1].status = JobStatus.STOPPED
    monkeypatch.delenv("OWN_TOKEN")
    assert main(["resume", "cells", "--address", ADDRESS]) == 2
    assert "--env OWN_TOKEN: not set here" in capsys.readouterr().err


def test_a_value_on_the_command_line_is_refused_and_not_repeated(client: Client, capsys: Any) -> None:
    assert main(["resume", "cells", "--address", ADDRESS, "--env", "OWN_TOKEN=very-secret"]) == 2
    assert "very-secret" not in capsys.readouterr().err
    assert main(["resume", "cells", "--env", "OWN_TOKEN"]) == 2
    assert "--address" in capsys.readouterr().err


def installed(folder: Path, name: str, points: str, *, top: str = "") -> None:
    facts = folder / f"{name}-1.0.dist-info"
    facts.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    needs = "Requires-Dist: shapely>=2\nRequires-Dist: sphinx; extra == 'docs'\n"
    (facts / "METADATA").write_text(head + needs)
    (facts / "entry_points.txt").write_text(points)
    (facts / "top_level.txt").write_text(top)


def test_packages_with_plug_ins_are_found_and_arrive_as_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, there = tmp_path / "site", tmp_path / "there"
    installed(site, "own-steps", "[paretune.step]\nmine = own_steps.mine:Mine\n", top="own_steps\nown_helper\n")
    installed(site, "others", "[console_scripts]\nother = others:main\n")
    (site / "own_steps" / "__pycache__").mkdir(parents=True)
    (site / "own_steps" / "mine.py").write_text("class Mine: ...\n")
    (site / "own_helper.py").write_text("")
    monkeypatch.syspath_prepend(site)
    (package,) = plugin_packages(metadata.distributions(path=[str(site)]))
    assert package.line().endswith("own-steps 1.0 (step mine); the cluster's Python needs shapely>=2")
    there.mkdir()
    copy_packages([package], there)
    (point,) = (p for d in metadata.distributions(path=[str(there)]) for p in d.entry_points)
    assert (point.group, point.name, point.value) == ("paretune.step", "mine", "own_steps.mine:Mine")
    assert sorted(str(file.relative_to(there)) for file in there.glob("own_[sh]*/*.py")) == ["own_steps/mine.py"]
    assert (there / "own_helper.py").is_file()
    assert not (there / "own_steps" / "__pycache__").exists()


def test_a_package_whose_module_is_gone_is_told(tmp_path: Path) -> None:
    installed(tmp_path, "gone", "[paretune.step]\nmine = gone_for_good.mine:Mine\n")
    with pytest.raises(UserError, match="module 'gone_for_good' is not found"):
        copy_packages(plugin_packages(metadata.distributions(path=[str(tmp_path)])), tmp_path)


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


def test_what_the_log_has_told_is_not_told_again_at_the_end(client: Client, capsys: Any) -> None:
    name = client.add("cells", JobStatus.FAILED)
    client._job(name).message = "Entrypoint failed with exit code 2, last available logs (…):\nno such folder"

    async def tail(_name: str) -> Any:
        yield "no such folder\n"

    client.tail_job_logs = tail  # type: ignore[attr-defined]
    assert main(["logs", "cells", "--follow", "--address", ADDRESS]) == 1
    told = capsys.readouterr()
    assert (told.out + told.err).count("no such folder") == 1
    assert "exit code 2" in told.err
