"""The front page in a real Chromium: pointing, pinning, filters, axes, colours, keys, 5,000 trials, no request."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paretune.reports.front_page import front_html
from paretune.reports.front_plot import STYLES
from paretune.results.page_data import SweepState, page_data
from tests_support_browser import HOVER, BrowserPage, browser, chromium
from tests_support_page import invented_page, simulated_page, target_results
from tests_support_records import changed, fake_records

pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium on PATH (apt-get install chromium)")
OPENED, ANSWERED = 2000.0, 50.0
"""Milliseconds in which a page of 5,000 trials opens, and in which it answers the mouse."""
TELL = """byId("theme").click(); pin(5); choose({ x: "size_mib" }); parent.postMessage({ points: P.points.length,
    pins: S.pins.length, switch: byId("reload-switch").hidden, theme: document.documentElement.dataset.theme }, "*");"""
"""Script inside a frame that uses the page and reports to the page around it."""
EVIL = '"><script>window.harmed = 1</script><img src=x onerror="window.harmed = 1">\u2028'


@pytest.fixture(scope="module")
def page() -> Iterator[BrowserPage]:
    with browser() as opened:
        yield opened


@pytest.fixture
def front(page: BrowserPage, tmp_path: Path) -> Iterator[BrowserPage]:
    """The page of the invented sweep; a test fails if the console shows an error or anything is requested."""
    file = tmp_path / "front.html"
    file.write_text(front_html(invented_page()), encoding="utf-8")
    page.open(file)
    yield page
    assert page.faults() == []


def place(page: BrowserPage, trial: int) -> tuple[float, float]:
    at = page.run(f"paretune.place({trial})")
    return at["x"], at["y"]


def pins(page: BrowserPage) -> list[int]:
    return list(page.run("paretune.choice.pins.map(trial => own('number', trial))"))


def shown(page: BrowserPage) -> set[int]:
    return set(page.run("P.points.map(trial => own('number', trial))"))


def colours_near(page: BrowserPage, x: float, y: float) -> set[tuple[int, ...]]:
    """The colours of the canvas around a place of the window."""
    script = f"""(() => {{ const box = byId("base").getBoundingClientRect();
        const copy = document.createElement("canvas").getContext("2d", {{ willReadFrequently: true }});
        copy.drawImage(byId("base"), box.left - {x} + 2, box.top - {y} + 2);
        return [...copy.getImageData(0, 0, 4, 4).data]; }})()"""
    values = page.run(script)
    return {tuple(values[i : i + 3]) for i in range(0, len(values), 4)}


def colours_at(page: BrowserPage, trial: int) -> set[tuple[int, ...]]:
    """The colours of the canvas around a trial."""
    return colours_near(page, *place(page, trial))


def ink(page: BrowserPage, name: str) -> tuple[int, ...]:
    """A colour of the page."""
    digits = page.run(f"colour('{name}')").lstrip("#")
    return tuple(int(digits[i : i + 2], 16) for i in (0, 2, 4))


def test_every_complete_trial_is_drawn_and_the_table_holds_the_front(front: BrowserPage) -> None:
    data = invented_page()
    complete = {row["number"] for row in data["trials"] if row["state"] == "complete"}
    assert shown(front) == complete
    rows = front.run("[...document.querySelectorAll('#front-table tbody tr')].map(row => row.cells[0].textContent)")
    assert [row.removeprefix("★ ") for row in rows] == ["8", "5", "12", "6", "4", "2", "3", "1", "0"]
    assert rows[0] == "★ 8"
    at = {trial: place(front, trial) for trial in (8, 0, 5)}
    assert at[8][0] < at[5][0] < at[0][0]
    assert at[8][1] > at[5][1] > at[0][1]
    for trial, name in ((8, "front"), (0, "eager"), (1, "rt")):
        assert ink(front, name) in colours_at(front, trial)
    assert set(STYLES) == {"front", "other", "broken", "eager", "onnxruntime"}


def test_the_front_is_a_step_line_that_no_trial_could_beat(front: BrowserPage) -> None:
    def on_line(x: float, y: float) -> bool:
        colours = colours_near(front, x, y)
        return any(sum(abs(a - b) for a, b in zip(one, ink(front, "front"), strict=True)) < 15 for one in colours)

    line = [place(front, trial) for trial in (8, 5, 12, 6, 4, 2, 3)]
    for (x, y), (u, v) in itertools.pairwise(line):
        assert on_line((x + u) / 2, y)  # first across, at the worse value
        assert on_line(u, (y + v) / 2)
        assert not on_line((x + u) / 2, v - 4)
    choose_axis(front, "x", "map")
    choose_axis(front, "y", "latency_ms")
    (x, y), (u, v) = place(front, 4), place(front, 2)
    assert on_line(x, (y + v) / 2)
    assert on_line((x + u) / 2, v)


def test_the_least_allowed_value_is_a_line_on_its_own_axis_only(front: BrowserPage) -> None:
    def drawn() -> bool:
        """Whether a row of the canvas holds the colour of limits over most of its width."""
        limit = ink(front, "bad")
        script = """(() => { const canvas = byId("base"), copy = document.createElement("canvas");
            copy.width = canvas.width; copy.height = canvas.height;
            const c = copy.getContext("2d", { willReadFrequently: true }); c.drawImage(canvas, 0, 0);
            return Array.from({ length: canvas.height }, (_, y) => {
                const row = c.getImageData(0, y, canvas.width, 1).data; let count = 0;
                for (let x = 0; x < row.length; x += 4)
                    count += Math.abs(row[x] - RED) + Math.abs(row[x + 1] - GREEN) + Math.abs(row[x + 2] - BLUE) < 150;
                return count; }); })()"""
        for name, value in zip(("RED", "GREEN", "BLUE"), limit, strict=True):
            script = script.replace(name, str(value))
        counts = front.run(script)
        at = front.run("S.y === 'map50' ? exact(0.72) : -1")
        most = max(range(len(counts)), key=counts.__getitem__)
        return bool(counts[most] > 300 and abs(most - at) < 2)

    assert not drawn()
    choose_axis(front, "y", "map50")
    assert drawn()


def test_baselines_lie_on_top_of_everything(page: BrowserPage, tmp_path: Path) -> None:
    base = fake_records()[:2]
    same = [changed(base[1], number=number, origin="sampled") for number in range(2, 400)]
    same += [changed(base[0], number=number, origin="sampled") for number in range(400, 420)]
    data = page_data(SweepState("demo", 0.0, finished=True), [target_results([*base, *same])])
    file = tmp_path / "front.html"
    file.write_text(front_html(data), encoding="utf-8")
    page.open(file)
    assert ink(page, "rt") in colours_at(page, 1)
    assert ink(page, "eager") in colours_at(page, 0)
    assert ink(page, "other") not in colours_at(page, 0)
    assert page.faults() == []


def test_pointing_at_a_trial_shows_its_recipe_beside_it(front: BrowserPage) -> None:
    assert front.run("byId('tip').hidden")
    front.move(*place(front, 5))
    front.wait("!byId('tip').hidden")
    text = front.run("byId('tip').innerText")
    assert text.startswith("trial 5: 128 prune 0.3 l1 → finetune 8 → int8 → onnxruntime")
    assert "latency: 1.70 ms [1.65, 1.75]" in text
    assert "map: 0.470 [0.460, 0.480]" in text
    assert "5.35 [5.19, 5.57] times as fast as the eager baseline" in text
    tip = front.run("['left', 'right', 'top', 'bottom'].map(edge => byId('tip').getBoundingClientRect()[edge])")
    for trial in (8, 5, 12, 6, 4, 2, 3, 0, 1):
        x, y = place(front, trial)
        assert not (tip[0] < x < tip[1] and tip[2] < y < tip[3]), f"the text covers trial {trial}"
    front.move(2, 2)
    front.wait("byId('tip').hidden")


def test_two_trials_are_pinned_and_compared_step_by_step(front: BrowserPage) -> None:
    front.click(*place(front, 3))
    assert pins(front) == [3]
    assert "160 prune 0.3 l1 → finetune 6" in front.run("byId('compare').innerText")
    front.click(*place(front, 5))
    assert pins(front) == [3, 5]
    rows = {
        row[0].strip(): row[1:]
        for row in front.run(
            "[...document.querySelectorAll('#compare tr')].map(row => [...row.cells].map(cell => cell.innerText))"
        )
    }
    assert rows["input size"] == ["160", "128", ""]
    assert rows["quantize"] == ["-", "yes", ""]
    assert rows["epochs"] == ["6", "8", ""]
    assert "ratio" not in rows  # equal in both
    assert rows["latency"] == ["3.40 ms\n[3.30, 3.50]", "1.70 ms\n[1.65, 1.75]", "0.50 \u00d7"]
    assert rows["map small"] == ["0.310", "0.282", "-0.028"]
    assert rows["cat"] == ["0.617", "0.570", "-0.047"]
    assert rows["<b>rare</b>"] == ["-", "-", ""]
    assert rows["finetune"] == ["25.0 s", "25.0 s", "+0.0 s"]
    assert rows["1."] == ["3-0.jpg\n4 wrong, 0 missed", "", ""]  # trial 5 has pictures instead
    drawn = "[...document.querySelectorAll('#compare figcaption')].map(one => one.firstChild.textContent)"
    assert front.run(drawn) == ["shared.jpg", "5-1.jpg", "5-2.jpg"]
    assert front.run("document.querySelectorAll('#compare figure rect.found').length") == 6
    front.click(*place(front, 8))
    assert pins(front) == [3, 8]
    front.click(*place(front, 3))
    assert pins(front) == [8]
    front.run(
        "[...document.querySelectorAll('#compare button')].find(one => one.textContent.startsWith('Unpin')).click()"
    )
    assert front.run("byId('compare').hidden")


def test_filters_leave_what_they_promise(front: BrowserPage) -> None:
    rows = {row["number"]: row for row in invented_page()["trials"] if row["state"] == "complete"}
    chip = "[...document.querySelectorAll('[data-chip]')].find(one => one.dataset.chip === '{}').click()"
    front.run(chip.format("steps:quantize"))
    assert shown(front) == {number for number, row in rows.items() if "quantize" in row["steps"]}
    front.run(chip.format("steps:quantize"))
    assert shown(front) == {number for number, row in rows.items() if "quantize" not in row["steps"]}
    front.run(chip.format("runtimes:eager"))
    assert 0 not in shown(front)
    front.run(chip.format("kinds:front"))
    assert not shown(front) & {8, 5, 12, 6, 4, 2, 3}
    front.run("byId('clear').click()")
    assert shown(front) == set(rows)
    front.run("byId('text').value = '128 prune'; byId('text').dispatchEvent(new Event('input'))")
    assert shown(front) == {n for n, row in rows.items() if "128" in row["recipe"] and "prune" in row["recipe"]}
    front.run("byId('text').value = 'no such recipe'; byId('text').dispatchEvent(new Event('input'))")
    assert shown(front) == set()


def choose_axis(page: BrowserPage, which: str, name: str) -> None:
    page.run(f"byId('{which}').value = '{name}'; byId('{which}').dispatchEvent(new Event('change'))")


def test_the_reader_chooses_axes_among_all_metrics(front: BrowserPage) -> None:
    options = set(front.run("[...byId('x').options].map(one => one.value)"))
    assert {"map", "map_delta", "size_mib", "params", "trial_seconds", "param:prune.ratio"} <= options
    choose_axis(front, "x", "size_mib")
    choose_axis(front, "y", "map_small")
    rows = {row["number"]: row["metrics"] for row in invented_page()["trials"] if row["state"] == "complete"}
    by_place = sorted(shown(front), key=lambda trial: place(front, trial)[0])
    assert [rows[t]["size_mib"] for t in by_place] == sorted(row["size_mib"] for row in rows.values())
    by_height = sorted(shown(front) - {9}, key=lambda trial: -place(front, trial)[1])  # 9 lies below the range
    assert [rows[t]["map_small"] for t in by_height] == sorted(rows[t]["map_small"] for t in shown(front) - {9})
    choose_axis(front, "y", "map50")
    assert front.run("targetsShown()[0].floors[S.y]") == 0.72
    choose_axis(front, "x", "param:prune.ratio")
    assert shown(front) == {3, 4, 5, 6, 7, 8, 9, 12, 13}


def test_dragging_enlarges_and_a_button_leads_back(front: BrowserPage) -> None:
    (x, y), (u, v) = place(front, 8), place(front, 12)
    front.drag((x - 15, y + 15), (u + 15, v - 15))
    assert front.run("paretune.choice.zoom !== null")
    assert pins(front) == []
    assert place(front, 12)[0] - place(front, 8)[0] > 2 * (u - x)
    front.run("byId('whole').click()")
    assert place(front, 12) == pytest.approx((u, v), abs=1)


def test_dark_and_light_by_the_system_and_by_the_button(front: BrowserPage) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    light = front.run(back)
    front.colours(dark=True)
    front.wait("document.documentElement.dataset.theme === 'dark'")
    dark = front.run(back)
    assert sum(map(int, dark[4:-1].split(","))) < 150
    assert sum(map(int, light[4:-1].split(","))) > 600
    assert ink(front, "front") in colours_at(front, 8)
    front.run("byId('theme').click()")
    assert front.run(back) == light
    front.run("localStorage.clear()")


def test_all_of_it_by_keys_and_aloud(front: BrowserPage) -> None:
    front.run("byId('plot').focus()")
    front.key("Home")
    front.key("ArrowRight")
    by_x = sorted(shown(front), key=lambda trial: place(front, trial)[0])
    assert front.run("own('number', paretune.choice.hover)") == by_x[1]
    assert front.run("byId('live').textContent").startswith(f"trial {by_x[1]}: ")
    front.key("Enter", "\r")
    assert pins(front) == [by_x[1]]
    front.key("End")
    assert front.run("own('number', paretune.choice.hover)") == by_x[-1]
    front.key("Tab")
    label = front.run("document.activeElement.getAttribute('aria-label')")
    assert label.startswith("trial 8: 128 prune 0.55")
    front.key("Tab")
    assert front.run("document.activeElement.getAttribute('aria-label')").startswith("trial 5: ")
    front.key("Enter", "\r")
    assert pins(front)[1] == 5
    unnamed = front.run("""[...document.querySelectorAll("button, select, input")]
        .filter(one => !(one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.length)).length""")
    assert unnamed == 0
    assert front.run("document.querySelectorAll('#front-table th[scope=col]').length") > 5
    assert front.run("document.querySelector('#front-table caption').textContent").startswith("Small figures")


def test_the_table_is_sorted_and_shows_all_trials(front: BrowserPage) -> None:
    front.run("byId('table-switch').click()")
    rows = "document.querySelectorAll('#front-table tbody tr')"
    first = f"Array.from({rows}, row => Number(row.cells[0].textContent.match(/\\d+/)[0]))"
    assert sorted(front.run(first)) == list(range(14))
    front.run("[...document.querySelectorAll('#front-table th button')].find(one => one.textContent === 'map').click()")
    rows = {row["number"]: row["metrics"].get("map", 9.0) for row in invented_page()["trials"]}
    assert [rows[trial] for trial in front.run(first)] == sorted(rows.values())  # the failed one comes last
    assert front.run("document.querySelector('#front-table th[aria-sort]').getAttribute('aria-sort')") == "ascending"


def test_the_rest_of_the_page_is_there(front: BrowserPage) -> None:
    text = front.run("document.body.innerText")
    assert (
        "Trial 8 (128 prune 0.55 l1 → finetune 8 → int8 → onnxruntime) is the fastest that is accurate enough" in text
    )
    assert "calibration saw <no> images & gave up (trial 10)" in text
    for heading in (
        "Hypervolume against cost",
        "Compute by stage",
        "Importance of the knobs",
        "Advice and what came of it",
    ):
        assert heading in text
    assert "prune.ratio" in front.run("byId('importance').innerText")
    assert "1.50\n[1.40, 1.60]" in front.run("byId('advice').innerText")
    assert front.run("byId('growth').querySelector('path.line').getAttribute('d').length") > 40
    front.run("byId('growth-switch').click()")
    assert "trials" in front.run("byId('growth').querySelector('svg').getAttribute('aria-label')")


def test_the_choice_survives_a_reload(page: BrowserPage, tmp_path: Path) -> None:
    file = tmp_path / "front.html"
    file.write_text(front_html(invented_page(finished=False)), encoding="utf-8")
    page.open(file)
    assert not page.run("byId('reload-switch').hidden")
    choose_axis(page, "x", "size_mib")
    page.click(*place(page, 5))
    page.run("[...document.querySelectorAll('[data-chip]')].find(one => one.dataset.chip === 'kinds:other').click()")
    before = shown(page)
    page.run("window.old = 1; setTimeout(() => location.reload(), 0)")
    page.wait("window.old === undefined && document.readyState === 'complete' && window.paretune !== undefined")
    assert pins(page) == [5]
    assert page.run("S.x") == "size_mib"
    assert shown(page) == before
    assert page.faults() == []


def test_a_page_of_an_unfinished_sweep_loads_itself_again_unless_the_reader_is_busy(
    page: BrowserPage, tmp_path: Path
) -> None:
    file = tmp_path / "front.html"
    file.write_text(front_html(invented_page(finished=False)), encoding="utf-8")
    later = "window.old = 1; real = performance.now.bind(performance); performance.now = () => real() + 60000"
    page.open(file)
    choose_axis(page, "y", "map50")
    file.write_text(front_html(invented_page("newer", finished=False)), encoding="utf-8")
    page.run(later + "; setInterval(() => dispatchEvent(new Event('pointermove')), 100)")
    page.run("new Promise(done => setTimeout(done, 2500))")
    assert page.run("window.old") == 1  # somebody moves the mouse
    page.open(file)
    choose_axis(page, "y", "map50")
    page.run("byId('reload-switch').click()")
    page.run(later + "; new Promise(done => setTimeout(done, 2500))")
    assert page.run("window.old") == 1  # the reader has switched it off
    page.run("byId('reload-switch').click()")
    page.wait("window.old === undefined && document.readyState === 'complete' && window.paretune !== undefined")
    assert page.run("document.querySelector('h1').textContent") == "newer on laptop"
    assert page.run("S.y") == "map50"
    file.write_text(front_html(invented_page()), encoding="utf-8")
    page.open(file)
    page.run(later + "; new Promise(done => setTimeout(done, 2500))")
    assert page.run("window.old") == 1  # the sweep is finished
    assert page.faults() == []


def test_it_works_inside_a_page_that_gives_it_no_address_and_keeps_nothing(page: BrowserPage, tmp_path: Path) -> None:
    """As MLflow shows it: in a sandboxed frame, where storage and the address are refused."""
    inner = front_html(invented_page(finished=False)).replace("</body>", "<script>" + TELL + "</script></body>")
    frame = (
        f'<iframe sandbox="allow-scripts" style="width: 900px; height: 700px" srcdoc="{html.escape(inner)}"></iframe>'
    )
    listen = "<script>addEventListener('message', event => { window.reported = event.data; })</script>"
    file = tmp_path / "outer.html"
    file.write_text(f"<!doctype html>{listen}{frame}", encoding="utf-8")
    page.open(file)
    page.wait("window.reported !== undefined")
    assert page.run("window.reported") == {"points": 13, "pins": 1, "switch": True, "theme": "dark"}
    assert page.faults() == []


def test_names_that_are_markup_do_nothing(page: BrowserPage, tmp_path: Path) -> None:
    data = invented_page(EVIL)
    for row in data["trials"]:
        row.update(recipe=EVIL, failure=row["failure"] and EVIL, classes={EVIL: 0.5}, notes=[EVIL], target=EVIL)
        row["worst"] = [{"image": EVIL, "wrong": 1, "missed": 1}]
        row["params"][EVIL] = EVIL
    data["targets"][0].update(name=EVIL, description=EVIL, notes=[EVIL])
    data["about"][EVIL] = EVIL
    data["importance"][0]["knob"] = data["advice"][0]["knob"] = EVIL
    file = tmp_path / "front.html"
    file.write_text(front_html(data), encoding="utf-8")
    page.open(file)
    page.run("choose({ pins: [0, 3] }, 'pins'); point(5, true)")
    assert page.run("document.body.innerText").count("<script>window.harmed") > 10
    assert page.run("window.harmed") is None
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.faults() == []


def test_fronts_of_several_targets_are_shown_together_or_singly(page: BrowserPage, tmp_path: Path) -> None:
    slow = [
        changed(record, metrics={**record.metrics, "latency_ms": record.metrics["latency_ms"] * 3})
        if record.state == "complete"
        else record
        for record in fake_records()
    ]
    both = [target_results(fake_records(), "laptop"), target_results(slow, "board")]
    file = tmp_path / "front.html"
    file.write_text(front_html(page_data(SweepState("two", 0.0, finished=True), both)), encoding="utf-8")
    page.open(file)
    assert page.run("P.points.length") == 26
    assert page.run("document.querySelectorAll('#verdict br').length") == 1
    page.run("byId('target').value = 'board'; byId('target').dispatchEvent(new Event('change'))")
    assert page.run("P.points.length") == 13
    assert page.run("new Set(P.points.map(trial => own('target', trial))).size") == 1
    assert page.faults() == []


@pytest.mark.parametrize("records", [[], fake_records()[10:11], fake_records()[:1]])
def test_little_or_nothing_to_show(page: BrowserPage, tmp_path: Path, records: list[Any]) -> None:
    data = page_data(SweepState("empty", 0.0, finished=False), [target_results(records)])
    file = tmp_path / "front.html"
    file.write_text(front_html(data), encoding="utf-8")
    page.open(file)
    assert page.run("byId('verdict').innerText") != ""
    assert page.faults() == []


def test_no_row_or_label_runs_out_of_the_window(page: BrowserPage, tmp_path: Path) -> None:
    data = invented_page()
    data["trials"][5]["recipe"] = "x" * 400
    file = tmp_path / "front.html"
    file.write_text(front_html(data), encoding="utf-8")
    for width in (600, 760, 1100, 1440, 2400):
        page.open(file, width=width)
        page.run("choose({ pins: [3, 5] }, 'pins')")
        assert page.run("document.documentElement.scrollWidth") <= width
        least = page.run("""Math.min(...[...document.querySelectorAll("body *")]
            .filter(one => one.textContent.trim() && one.clientWidth)
            .map(one => parseFloat(getComputedStyle(one).fontSize)))""")
        assert least >= 12
    assert page.faults() == []


@pytest.mark.alone
def test_five_thousand_trials_open_at_once_and_answer_the_mouse(page: BrowserPage, tmp_path: Path) -> None:
    file = tmp_path / "front.html"
    file.write_text(front_html(simulated_page(5000)), encoding="utf-8")
    assert file.stat().st_size < 3_000_000
    times = []
    for _ in range(3):  # another process may have the cores for one of them
        page.open(file)
        times.append(page.run("performance.getEntriesByType('navigation')[0].loadEventEnd"))
    assert min(times) < OPENED, times
    answers = page.run(HOVER)
    assert answers[len(answers) // 2] < ANSWERED, answers
    baselines = [trial for trial in (0, 1) if trial in shown(page)]
    assert baselines == [0, 1]
    assert ink(page, "eager") in colours_at(page, 0)
    assert page.faults() == []


def test_numbers_beside_points_never_lie_on_one_another(page: BrowserPage, tmp_path: Path) -> None:
    file = tmp_path / "front.html"
    file.write_text(front_html(simulated_page(5000)), encoding="utf-8")
    page.open(file)
    boxes = page.run("""(() => { const boxes = [], draw = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (words, x, y) {
            if (/^(★ )?\\d+( =)?( ~)?$/.test(words) && this.canvas.id === "base" && this.textAlign === "left")
                boxes.push([x, y - 6, x + this.measureText(words).width, y + 6]);
            return draw.call(this, words, x, y); };
        drawPlot(); return boxes; })()""")
    assert len(boxes) > 5
    for one, (left, top, right, bottom) in enumerate(boxes):
        for u, v, w, z in boxes[:one]:
            assert right <= u or left >= w or bottom <= v or top >= z
