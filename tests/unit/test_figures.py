"""The front as page, picture and table."""

from __future__ import annotations

import csv
import io
import math
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.reports.front_page import FrontView, front_csv, front_html, front_png
from paretune.reports.front_plot import log_ticks, ticks
from tests_support_records import FLOOR, OBJECTIVES, changed, comparison, complete, fake_records, front_of, recipe


def picture_of(records, **more):
    broken = {r.number: {"map50": FLOOR - r.metrics["map50"]} for r in records if "map50" in r.metrics}
    more = {"comparison": comparison(), "floors": {"map50": FLOOR}, "violations": broken} | more
    return FrontView(front_of(records), records, OBJECTIVES, **more)


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def marks(self):
        return {int(a["data-trial"]): a for tag, a in self.tags if tag == "g" and "data-trial" in a}

    def rows(self):
        return [int(a["data-trial"]) for tag, a in self.tags if tag == "tr" and "data-trial" in a]


def test_the_page_shows_every_complete_trial_and_lists_the_failed_one():
    records = fake_records()
    page = Page(front_html(picture_of(records)))
    kinds = {trial: attrs["class"].split()[1:] for trial, attrs in page.marks().items()}
    assert set(kinds) == {record.number for record in records if record.state == "complete"}
    assert {trial for trial, kind in kinds.items() if "chosen" in kind} == {8, 5, 12, 6, 4, 2, 3}
    assert (kinds[0], kinds[1], kinds[9], kinds[7]) == (["eager"], ["onnxruntime"], ["unfit"], ["other"])
    assert page.rows() == [8, 5, 12, 6, 4, 2, 3, 0, 1]
    assert "7 of 14 trials are on the front (1 failed)" in page.text
    assert "calibration saw <no> images & gave up" in page.text
    assert page.marks()[8]["data-say"].splitlines()[:2] == [
        "trial 8: 128 prune 0.55 l1 → finetune 8 → int8 → onnxruntime",
        "map 0.4490, latency_ms 1.25",
    ]


def test_the_page_says_how_sure_a_change_of_accuracy_is(tmp_path):
    sure = {"map_delta_low": -0.071, "map_delta": -0.063, "map_delta_high": -0.055}
    records = [changed(r, metrics={**r.metrics, **sure}) if r.number == 8 else r for r in fake_records()]
    text = front_html(picture_of(records))
    assert text.count("<td>-0.063<br><small>[-0.071, -0.055]</small></td>") == 1
    assert "<td>-0.042</td>" in text  # of another trial it is not known
    (place,) = re.findall(r'data-trial="8"[^>]*><path d="M([\d.]+) ([\d.]+)V([\d.]+)" class="spread"/>', text)
    (drawn,) = re.findall(r'data-trial="8"[^>]*>.*?<circle cx="([\d.]+)" cy="([\d.]+)"', text)
    assert place[0] == drawn[0]
    bottom, middle, top = float(place[1]), float(drawn[1]), float(place[2])
    assert bottom - middle == pytest.approx(middle - top, abs=0.2)
    assert bottom > middle > top
    front_png(picture_of(records), tmp_path / "front.png")
    front_png(picture_of(fake_records()), tmp_path / "other.png")
    assert (tmp_path / "front.png").read_bytes() != (tmp_path / "other.png").read_bytes()


def test_the_page_says_what_its_speed_ups_are_worth_and_what_came_of_advice():
    records = fake_records()
    quiet = Page(front_html(picture_of(records)))
    assert "Advice" not in quiet.text
    unknown = dict.fromkeys(["trial", "speedup", "low", "high", "helped"])
    told = [
        {"knob": "runtime: <b>", "predicted": 2.0, "trial": 3, "against": 0, "speedup": 1.5, "low": 1.4, "high": 1.6}
        | {"helped": True, "reason": None, "verdict": "faster"},
        {"knob": "prune", "predicted": 1.25, "against": 0, **unknown, "reason": "its recipe was not tried"},
    ]
    noted = {**comparison(), "notes": ["contended: others <used> half of a core"]}
    page = Page(front_html(picture_of(records, comparison=noted, advice=told)))
    assert "contended: others <used> half of a core" in page.text
    assert "runtime: <b>302.001.50 [1.40, 1.60]helped" in page.text
    assert "prune-01.25-its recipe was not tried" in page.text
    assert page.rows() == quiet.rows()


def test_the_page_needs_nothing_from_anywhere():
    text = front_html(picture_of(fake_records()))
    assert not re.search(r"https?:|//[a-z]|\bsrc=|\bhref=|@import|url\(", text)
    assert "$" not in text.replace("${", "")


def test_the_page_escapes_what_people_write():
    evil = '"><script>alert(1)</script>'
    records = [
        changed(record, recipe=recipe(evil), failure=record.failure and evil, artefact=evil)
        for record in fake_records()
    ]
    picture = picture_of(records)
    picture.front.update(sweep=evil, target=evil)
    page = Page(front_html(picture))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert all(evil in attrs["data-say"] for attrs in page.marks().values())
    assert evil in page.text


def test_a_large_sweep_makes_a_small_page():
    random = np.random.default_rng(0)
    base = fake_records()[:2]
    many = [
        complete(n, fake_records()[5].recipe, random.uniform(0.2, 0.6), random.uniform(1, 9)) for n in range(2, 300)
    ]
    assert len(front_html(picture_of([*base, *many])).encode()) < 100_000


def test_marks_lie_where_their_figures_say():
    records = fake_records()
    text = front_html(picture_of(records))
    found = re.findall(
        r'data-trial="(\d+)"[^>]*>(?:<text[^>]*>\d+</text>)?<circle cx="([\d.]+)" cy="([\d.]+)"',
        text,
    )
    places = {int(trial): (float(x), float(y)) for trial, x, y in found}
    assert len(places) == 10
    by_number = {record.number: record.metrics for record in records}
    xs = np.array([places[t][0] for t in places])
    ys = np.array([places[t][1] for t in places])
    costs = np.log([by_number[t]["latency_ms"] for t in places])
    qualities = np.array([by_number[t]["map"] for t in places])
    assert np.corrcoef(xs, costs)[0, 1] == pytest.approx(1, abs=1e-4)
    assert np.corrcoef(ys, qualities)[0, 1] == pytest.approx(-1, abs=1e-4)
    (line,) = re.findall(r'<path d="M([^"]+)" class="line"/>', text)
    start, *steps = re.split(r"H", line)
    corners = [tuple(map(float, start.split()))] + [tuple(map(float, step.split("V"))) for step in steps]
    assert corners == [places[trial] for trial in (8, 5, 12, 6, 4, 2, 3)]


def test_a_collapsed_trial_does_not_press_the_front_together():
    text = front_html(picture_of(fake_records()))
    heights = [float(y) for y in re.findall(r'class="m front chosen"[^>]*>.*?cy="([\d.]+)"', text)]
    assert max(heights) - min(heights) > 200
    assert re.search(r'class="m unfit"[^>]*><path d="M[\d. ]+h11.0l-5.5 8z"/>', text)


def test_a_largest_allowed_cost_is_drawn_and_what_lies_beyond_is_marked():
    """The constraint is on the cost, which a floor alone would never show."""
    records = fake_records()
    beyond = {r.number: {"latency_ms": r.metrics["latency_ms"] - 3.0} for r in records if r.state == "complete"}
    text = front_html(picture_of(records, floors={}, ceilings={"latency_ms": 3.0}, violations=beyond))
    kinds = {trial: attrs["class"].split()[1:] for trial, attrs in Page(text).marks().items()}
    assert (kinds[7], kinds[11]) == (["unfit"], ["other"])
    assert 'class="floor">largest allowed' in text
    assert "latency_ms at most 3" in Page(text).text
    (line,) = re.findall(r'<path d="M([\d.]+) \d+V\d+" class="floor"/>', text)
    at = {int(t): float(x) for t, x in re.findall(r'data-trial="(\d+)"[^>]*><circle cx="([\d.]+)"', text)}
    assert at[11] < float(line) < at[7]


def test_the_smallest_allowed_value_is_drawn_on_its_own_axis_only():
    drawn = 'class="floor">smallest allowed'
    assert drawn in front_html(picture_of(fake_records(), floors={"map": 0.46}))
    assert drawn not in front_html(picture_of(fake_records(), floors={"map50": FLOOR}))


@pytest.mark.parametrize(
    "records", [fake_records()[10:11], fake_records()[:1], [changed(fake_records()[3], metrics={})]]
)
def test_little_or_nothing_to_show(records, tmp_path):
    picture = picture_of(records, comparison=None)
    page = Page(front_html(picture))
    assert ("no complete trial yet" in page.text) == (not picture.marks)
    front_png(picture, tmp_path / "front.png")
    assert cv2.imread(str(tmp_path / "front.png")) is not None
    assert front_csv(picture).startswith("trial,recipe")


def test_the_picture_shows_front_baselines_and_floor(tmp_path):
    file = tmp_path / "front.png"
    front_png(picture_of(fake_records(), floors={"map": 0.46, "map50": FLOOR}), file)
    image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB).astype(int)
    assert image.shape == (650, 1170, 3)
    # the thin line of the floor is blended with the paper
    for colour, blend in (("#1a73e8", 8), ("#b06000", 8), ("#137333", 8), ("#a8adb4", 8), ("#d93025", 60)):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(image - wanted).max(axis=2) < blend).sum() > 40, colour


def test_the_table_for_spreadsheets_has_every_point_and_metric():
    front = front_of(fake_records())
    rows = list(csv.DictReader(io.StringIO(front_csv(picture_of(fake_records())))))
    assert [int(row["trial"]) for row in rows] == [point["trial"] for point in front["front"]]
    for row, point in zip(rows, front["front"], strict=True):
        assert {name: float(row[name]) if row[name] else None for name in point["metrics"]} == point["metrics"]
    assert {row["energy_mj_image"] for row in rows} == {""}  # unknown
    assert "" not in {row["map50"] for row in rows}


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1.01, 1e4))
def test_ticks_of_a_logarithmic_axis_are_some_round_numbers_inside_it(low, factor):
    found = log_ticks(low, low * factor)
    assert 2 <= len(found) <= 20
    assert all(low * (1 - 1e-9) <= tick <= low * factor * (1 + 1e-9) for tick in found)
    assert found == sorted(set(found))


@settings(deadline=None)
@given(st.floats(-10, 10), st.floats(1e-3, 100))
def test_ticks_are_some_round_numbers_inside_the_range(low, span):
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= tick <= low + span + 1e-9 for tick in found)
    steps = np.diff(found)
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-6)
    assert min(abs(steps[0] / 10 ** math.floor(math.log10(steps[0] * 1.0001)) - m) for m in (1, 2, 2.5, 5, 10)) < 1e-3
