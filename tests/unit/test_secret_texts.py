"""Secrets and control characters in texts: which are hidden or refused, and where they go nevertheless."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from paretune.config.plan import read_plan
from paretune.core.errors import UserErrors, one_line
from paretune.core.secret_texts import holds_secret, is_secret_name, without_secrets
from paretune.core.startup import any_output
from paretune.tracking.mlflow_client import LogPlace
from tests_support import SMALL_JOB, SMALL_SPACE

CANARY = "canary-4711-öß"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:canary@host:5000/a?b=c is away", "http://host:5000/a?b=c is away"),
        ("no such folder: https:/me:canary@host/set.zip", "no such folder: https:/host/set.zip"),
        ("postgresql+psycopg2://me:can@ry@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("s3://b/f?X-Amz-Signature=canary&part=2", "s3://b/f?X-Amz-Signature=***&part=2"),
        ("https://h/data.zip?token=canary", "https://h/data.zip?token=***"),
        ("https://h/?sv=1&sig=canary'", "https://h/?sv=1&sig=***'"),
        ("https://h/?design=modern&page=2", "https://h/?design=modern&page=2"),
        ('{"uri": "http://h", "mail": "me@h"}', '{"uri": "http://h", "mail": "me@h"}'),
        ("trial 3 failed: me@host is no file", "trial 3 failed: me@host is no file"),
    ],
)
def test_what_a_url_holds_is_hidden_and_all_else_stays(text: str, shown: str) -> None:
    assert without_secrets(text, {}) == shown
    assert without_secrets(shown, {}) == shown


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("AWS_SECRET_ACCESS_KEY", CANARY, True),
        ("HF_TOKEN", CANARY, True),
        ("MLFLOW_TRACKING_PASSWORD", CANARY, True),
        ("PGPASSWORD", CANARY, True),
        ("OPENAI_API_KEY", CANARY, True),
        ("MLFLOW_TRACKING_URI", f"http://me:{CANARY}@host", True),
        ("AWS_ACCESS_KEY_ID", "AKIA-no-secret", False),
        ("RAY_AUTH_TOKEN_PATH", "/home/me/.token", False),
        ("PWD", "/home/me/work", False),
        ("TOKENIZERS_PARALLELISM", "disabled-here", False),
        ("HF_TOKEN", "short", False),
    ],
)
def test_values_of_variables_with_secret_names(name: str, value: str, hidden: bool) -> None:
    secret = CANARY if hidden else value
    text = f"401: {secret!s} and {__import__('urllib.parse').parse.quote(secret, safe='')} were refused"
    assert (secret not in without_secrets(text, {name: value})) == hidden
    assert ("***" in without_secrets(text, {name: value})) == hidden


def test_an_error_in_a_line_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    assert one_line(ValueError(f"bearer {CANARY}\nof http://a:b@c")) == "bearer *** of http://c"


@pytest.mark.parametrize("field", ["password", "api_key", "hf_token", "secretKey", "credentials"])
def test_names_of_secrets(field: str) -> None:
    assert is_secret_name(field)


@pytest.mark.parametrize("field", ["tokenizer", "key", "monkey", "passes", "design", "cache_key"])
def test_names_of_no_secrets(field: str) -> None:
    assert not is_secret_name(field)


def job(folder: Path, extra: str) -> Path:
    (folder / "job.yaml").write_text(SMALL_JOB + extra)
    (folder / "space.yaml").write_text(SMALL_SPACE)
    return folder / "job.yaml"


@pytest.mark.parametrize(
    "extra",
    [
        "tracking: {uri: 'http://me:canary@host'}\n",
        "store: {url: 's3://bucket/store?secret=canary'}\n",
        "store: {url: 's3://key:canary@bucket'}\n",
    ],
)
def test_a_job_with_a_secret_is_refused_by_its_line_without_it(extra: str, tmp_path: Path) -> None:
    with pytest.raises(UserErrors) as refused:
        read_plan(job(tmp_path, extra))
    (problem,) = refused.value.problems
    assert problem.line == SMALL_JOB.count("\n") + 1
    assert "canary" not in str(problem)


def test_a_job_may_name_a_variable_and_the_log_has_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_PASSWORD", CANARY)
    uri = "http://me:$LOG_PASSWORD@host"
    plan = read_plan(job(tmp_path, f"tracking: {{uri: '{uri}'}}\n"))
    assert plan.job.tracking.uri == uri
    place = LogPlace.of(tmp_path, "demo", uri, None)
    assert place.uri == f"http://me:{CANARY}@host"
    assert CANARY not in place.words
    assert place.address == "http://host"
    assert not holds_secret(uri)


def test_a_terminal_gets_no_command_and_stderr_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True))
    for _ in range(2):  # as by a program that calls it again
        any_output()
    print("Größe\t猫 \x1b[2J\x1b]0;title\x07 a\rb \u202egpj\nline")
    print(f"refused: {CANARY}\x1b[31m", file=sys.stderr)
    said = [stream.buffer.getvalue().decode() for stream in (sys.stdout, sys.stderr)]  # type: ignore[attr-defined]
    assert said[0] == "Größe\t猫 \\x1b[2J\\x1b]0;title\\x07 a\\rb \\u202egpj\nline\n"
    assert said[1] == "refused: ***\\x1b[31m\n"
