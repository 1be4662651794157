"""A Ray that does not come up."""

from __future__ import annotations

import sys
import tempfile
from types import SimpleNamespace

import pytest

from paretune.core.errors import UserError
from paretune.distributed import ray_session as session


@pytest.fixture
def ended(monkeypatch, tmp_path):
    """Put a Ray that gives up in the place of the real one; returns what was asked of it."""
    asked = []

    def give_up(**options):
        asked.append(options["_temp_dir"])
        raise Exception("The current node timed out\nduring startup.")  # noqa: TRY002 - as Ray does

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=give_up, shutdown=lambda: asked.append("ended")))
    monkeypatch.setitem(sys.modules, "ray.util", SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", *session.QUIET):
        monkeypatch.setenv(name, "")  # and what they were comes back
    return asked


def test_a_ray_that_does_not_start_is_told_in_one_line_and_leaves_nothing(ended, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    with pytest.raises(UserError) as raised, session.session(runs):
        pytest.fail("there is no Ray")
    said = str(raised.value)
    assert said.startswith("Ray did not start: The current node timed out during startup.; ")
    assert "\n" not in said
    assert ended[1:] == ["ended"]
    assert ended[0].startswith(f"{tmp_path}/pt-")
    assert not list(tmp_path.glob("pt-*"))
    assert not (runs / session.SESSION_MARK).exists()
