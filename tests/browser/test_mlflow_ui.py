"""What `paretune ui` shows in a real Chromium: from MLflow's first page to the front, a sweep's page, its view."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from paretune.cli.main import main
from paretune.config.job import Job
from paretune.results.sweep_folder import Sweep
from paretune.tracking.mlflow_client import database_uri
from paretune.tracking.ui_server import LOG, LogPages, _server, _wait_until_it_answers, pages_of
from paretune.workflows.front_files import refresh_front
from tests_support import free_port
from tests_support_browser import BrowserPage, browser, chromium
from tests_support_page import detailed
from tests_support_records import fake_records, write_sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium on PATH (apt-get install chromium)"),
]
PATIENCE = 60
"""Seconds that a page of MLflow may take beside other tests."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A finished sweep of 14 invented trials, in a log of its own."""
    made = Sweep(tmp_path_factory.mktemp("runs"), "demo")
    made.folder.mkdir()
    job = {"dataset": {"yolo": {"root": "data"}}, "detector": "yolo", "space": "none.yaml", "input_size": 160}
    tree = Job.model_validate(job).tree()
    facts = {"paretune": "0", "name": "demo", "created": 1_790_000_000.0, "job": tree, "promises": [], "data": {}}
    (made.folder / "sweep.json").write_text(json.dumps(facts))
    write_sweep(made.folder, [detailed(record) for record in fake_records()])
    made.mark_finished()
    refresh_front(made)
    assert main(["sync", "demo", "--runs", str(made.runs)]) == 0
    return made


class Ui:
    """A running server, and a browser that looks at it."""

    def __init__(self, address: str, page: BrowserPage, pages: LogPages) -> None:
        self.address, self.page, self.pages = address, page, pages

    def open(self, path: str) -> None:
        """Open a page at a width of 1440 pixels, from the server and not from what was open before."""
        self.page.call("Emulation.setDeviceMetricsOverride", width=1440, height=900, deviceScaleFactor=1, mobile=False)
        self.page.events.clear()
        self.page.call("Page.navigate", url="about:blank")
        self.page.call("Page.navigate", url=f"{self.address}/{path}")

    def link(self, text: str) -> str:
        """Return the address of the link with a text, once it is there."""
        links = f"[...document.querySelectorAll('a')].filter(a => a.textContent.trim() === {json.dumps(text)})"
        self.page.wait(f"{links}.length > 0", PATIENCE)
        return str(self.page.run(f"{links}[0].href"))

    def text(self, part: str) -> str:
        """Return the text of the page, once a part of it is there."""
        self.page.wait(f"(document.body?.innerText ?? '').includes({json.dumps(part)})", PATIENCE)
        return str(self.page.run("document.body.innerText"))

    def elsewhere(self) -> list[str]:
        """Return requests that left this machine."""
        self.page.run("0")
        urls = [e["params"]["request"]["url"] for e in self.page.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith((self.address, "data:", "blob:", "about:"))]

    def thrown(self) -> list[Any]:
        """Return exceptions that no script has caught."""
        return [e["params"]["exceptionDetails"] for e in self.page.events if e["method"] == "Runtime.exceptionThrown"]


@pytest.fixture(scope="module")
def ui(sweep: Sweep) -> Iterator[Ui]:
    pages, port = pages_of(database_uri(sweep.runs), "demo"), free_port()
    assert pages is not None
    with _server(sweep.runs, port) as server, browser() as page:
        _wait_until_it_answers(server, port, sweep.runs / LOG)
        yield Ui(f"http://127.0.0.1:{port}", page, pages)


def test_from_the_first_page_two_links_lead_to_the_front(ui: Ui) -> None:
    ui.open("")
    first = ui.link("paretune")
    ui.open(first.partition("/#")[2].join(("#", "")))
    front = ui.link("demo")
    assert front.endswith(ui.pages.front)
    ui.open(front.removeprefix(f"{ui.address}/"))
    frame = "[...document.querySelectorAll('iframe')].map(f => f.srcdoc || f.src).join('')"
    ui.page.wait(f"({frame}).length > 0", PATIENCE)
    assert ui.elsewhere() == []
    assert ui.thrown() == []


def test_a_sweeps_page_begins_with_its_answer_and_links_to_the_front(ui: Ui, sweep: Sweep) -> None:
    ui.open(ui.pages.front.partition("/artifacts")[0] + "?workflowType=machine_learning")
    text = ui.text("is the fastest of the front")
    best = json.loads((sweep.folder / "front" / "front.json").read_text())["best"]["trial"]
    said = text.partition("is the fastest of the front")[0].splitlines()[-1]
    assert int(said.split()[0]) == best
    front = json.loads((sweep.folder / "front" / "front.json").read_text())["front"]
    rows = ui.page.run("[...document.querySelectorAll('td a, td p a')].map(a => a.textContent.trim().split(' ')[0])")
    numbers = [int(row) for row in rows if row.isdecimal()]
    assert numbers == sorted(numbers, key=[point["trial"] for point in front].index)
    assert set(numbers) == {point["trial"] for point in front}
    assert ui.elsewhere() == []


def test_the_saved_view_shows_all_trials_and_both_baselines_by_latency_and_accuracy(ui: Ui) -> None:
    ui.open(ui.pages.front.partition("/artifacts")[0] + "?workflowType=machine_learning")
    view = ui.link("all trials as charts")
    ui.open(view.removeprefix(f"{ui.address}/"))
    text = ui.text("000 unchanged")
    assert "001 unchanged" in text
    assert "009 ★" in text
    assert "14\nmatching runs" in text or "14 matching runs" in text
    ui.page.wait("document.querySelectorAll('.scatterlayer .point').length === 13", PATIENCE)  # one trial failed
    titles = ui.page.run("[...document.querySelectorAll('.xtitle, .ytitle')].map(t => t.textContent)")
    assert titles[:2] == ["latency/ms", "accuracy/map"]
    assert ui.elsewhere() == []
