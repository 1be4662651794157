"""Names that are markup, links or commands of a terminal do nothing on the pages of a sweep and in the terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import main
from paretune.results.sweep_folder import Sweep
from tests_support_browser import browser, chromium
from tests_support_hostile import EVIL, harm, hostile_sweep

pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium on PATH (apt-get install chromium)")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return hostile_sweep(tmp_path_factory.mktemp("runs"))


def test_they_do_nothing_on_its_pages(sweep: Sweep, tmp_path: Path) -> None:
    trap = tmp_path / "trap.html"
    trap.write_text(f"<div>{EVIL}</div>", encoding="utf-8")
    with browser() as page:
        for name in ("front.html", "report.html", "front.svg"):
            page.open(sweep.folder / "front" / name)
            assert harm(page) == []
        page.call("Page.addScriptToEvaluateOnNewDocument", source="window.alert = () => {}")
        page.open(trap)
        assert harm(page) != []  # where they are markup, they are found


@pytest.mark.parametrize("words", [("front", "demo"), ("pick", "demo", "--knee", "--out", "picked")])
def test_a_terminal_gets_no_command(
    words: tuple[str, ...], sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    main([*words, "--runs", str(sweep.runs)])
    said = "".join(capsys.readouterr())
    assert said
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", said)
