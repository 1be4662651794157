"""The data of the front page, how it is packed, and that its file holds all and does nothing else."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.reports.front_page import DETAILED, MOST_BYTES, PICTURE_BYTES, front_html, packed, safe_json
from paretune.results.page_data import SweepState, page_data
from tests_support_page import WEBP, invented_page, invented_pictures, simulated_page, simulated_records, target_results
from tests_support_records import changed, compared, fake_records, front_of

EVIL = "</script><script>alert(1)</script><!-- & \u2028 \u2029 \ud800"


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        place = attributes.get("type") or tag
        self.texts[place] = self.texts.get(place, "") + data

    @property
    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.texts["application/json"]))


def values(column: dict[str, Any]) -> list[Any]:
    """The values of a packed column."""
    return column["v"] if "v" in column else [None if place < 0 else column["d"][place] for place in column["i"]]


def test_the_tree_holds_every_trial_with_what_its_record_knows() -> None:
    data, records = invented_page(), fake_records()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert [row["number"] for row in data["trials"]] == [record.number for record in records]
    for row, record in zip(data["trials"], records, strict=True):
        assert {name: row["metrics"][name] for name in record.metrics} == record.metrics
        assert (row["params"], row["seconds"], row["state"]) == (record.params, record.seconds, record.state)
    kinds = {row["number"]: row["kind"] for row in data["trials"]}
    assert kinds == dict.fromkeys((8, 5, 12, 6, 4, 2, 3), "front") | {
        0: "eager",
        1: "onnxruntime",
        7: "other",
        11: "other",
        13: "other",
        9: "broken",
        10: "failed",
    }
    assert data["trials"][9]["broken"] == ["map50"]
    (target,) = data["targets"]
    front = front_of(fake_records())
    assert target["front"] == [point["trial"] for point in front["front"]]
    assert (target["best"], target["hypervolume"]) == (front["best"], front["hypervolume"])
    assert target["series"][-1]["hypervolume"] == pytest.approx(front["hypervolume"])
    assert data["cost"]["trials"] == 13 * 35 + 1.5
    stages = {stage["stage"]: (stage["seconds"], stage["trials"]) for stage in data["stages"]}
    assert stages == {"finetune": (325.0, 13), "evaluate": (52.0, 13), "measure": (78.0, 13), "prune": (1.5, 1)}


def test_metrics_of_the_tree_have_their_intervals_and_units() -> None:
    rows = {row["name"]: row for row in invented_page()["metrics"]}
    assert (rows["latency_ms"]["low"], rows["latency_ms"]["high"]) == ("latency_ms_low", "latency_ms_high")
    assert rows["map"]["change"] == "map_delta"
    assert (rows["map_delta"]["low"], rows["map_delta"]["high"]) == ("map_delta_low", "map_delta_high")
    assert rows["map50"]["change"] == ""
    assert (rows["params"]["divisor"], rows["params"]["word"]) == (1e6, "M")
    assert not [name for name in rows if name.endswith(("_low", "_high"))]
    assert list(rows)[:3] == ["map", "map_delta", "map50"]


def test_ties_and_unstable_latencies_of_a_comparison_are_in_the_tree() -> None:
    records = fake_records()
    found = compared(records, {0: 2.0, 1: 1.0, 2: 0.72, 4: 0.7, 8: 0.4}, ties=[(2, 4)])
    found["latencies"]["8"]["unstable"] = True
    data = page_data(SweepState("demo", 0.0, finished=True), [target_results(records, comparison=found)])
    rows = {row["number"]: row for row in data["trials"]}
    assert (rows[2]["tied_with"], rows[4]["tied_with"]) == ([4], [2])
    assert [number for number, row in rows.items() if row["unstable"]] == [8]
    assert data["targets"][0]["gains"]["4"]["eager"]["speedup"] == pytest.approx(2.0 / 0.7)
    assert data["targets"][0]["ties"] == {"2": [4], "4": [2]}


def test_a_stopped_trial_keeps_what_was_known_by_then_and_why() -> None:
    known = {
        "reason": "cannot reach the front",
        "stage": "measure",
        "metrics": {"latency_ms": 3.0, "expected_map": 0.4},
    }
    stopped = changed(fake_records()[7], state="stopped", metrics={}, facts={"stopped": known}, artefact=None)
    data = page_data(SweepState("demo", 0.0, finished=False), [target_results([*fake_records()[:2], stopped])])
    row = data["trials"][2]
    assert (row["kind"], row["metrics"], row["failure"]) == ("stopped", {"latency_ms": 3.0}, "cannot reach the front")


def test_packing_keeps_every_value_to_five_digits() -> None:
    data = simulated_page(400)
    trials = packed(data)["trials"]
    assert trials["count"] == len(data["trials"]) == 400
    for group in ("metrics", "params", "seconds"):
        names = {name for row in data["trials"] for name in row[group]}
        assert set(trials[group]) == names
        for name in names:
            for value, row in zip(values(trials[group][name]), data["trials"], strict=True):
                wanted = row[group].get(name)
                assert value == (pytest.approx(wanted, rel=1e-4) if isinstance(wanted, float) else wanted)
    for name in ("number", "state", "kind", "recipe", "failure", "front", "steps"):
        assert values(trials["own"][name]) == [row[name] for row in data["trials"]]
    detailed = [row is not None for row in values(trials["own"]["classes"])]
    assert sum(detailed) == DETAILED
    assert all(kept for kept, row in zip(detailed, data["trials"], strict=True) if row["front"] or row["number"] < 2)
    (target,) = packed(data)["targets"]
    series = data["targets"][0]["series"]
    at = {int(trials): volume for trials, _, volume in target["series"]}
    last = 0.0
    for place, point in enumerate(series):
        last = at.get(place + 1, last)
        assert last == pytest.approx(point["hypervolume"], rel=1e-5)


def test_the_page_needs_nothing_from_anywhere() -> None:
    text = front_html(invented_page())
    page = Page(text)
    addresses = [
        (tag, name, value)
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data", "srcset", "poster") and not (value or "").startswith("#")
    ]
    assert addresses == []
    assert not {"link", "iframe", "object", "embed", "img", "base"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|WebSocket|import\(", text)
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)


def test_the_page_escapes_what_people_write() -> None:
    data = invented_page(EVIL)
    for row in data["trials"]:
        row.update(recipe=EVIL, notes=[EVIL], classes={EVIL: 0.5}, failure=EVIL)
        row["params"][EVIL] = EVIL
    data["targets"][0].update(name=EVIL, notes=[EVIL])
    text = front_html(data)
    text.encode()  # a lone surrogate of a file's name is escaped
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 2
    (element,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert not re.search("[<>&\u2028\u2029]", element)
    assert page.data["sweep"] == EVIL
    assert values(page.data["trials"]["own"]["recipe"]) == [EVIL] * 14


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_in_a_script_element_is_the_same_data(tree: Any) -> None:
    text = safe_json(tree)
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == tree


def test_a_value_that_json_lacks_is_refused_and_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        safe_json({"value": math.inf})


def test_a_page_of_thousands_of_trials_with_all_metrics_stays_below_3_mb() -> None:
    data = simulated_page(5000)
    for place, row in enumerate(data["trials"]):
        if row["state"] == "complete":
            row["metrics"].update({f"extra_{n}": (place * 7919 + n * 104729) % 99991 / 7 for n in range(50)})
    data["metrics"] += [{**data["metrics"][0], "name": f"extra_{n}"} for n in range(50)]
    text = front_html(data)
    assert len(safe_json(packed(data))) > MOST_BYTES
    assert len(text.encode()) < 3_000_000
    shown = Page(text).data
    assert {"map", "latency_ms", "latency_ms_low", "map_delta", "params"} <= set(shown["trials"]["metrics"])
    assert shown["left_out"]
    assert not set(shown["left_out"]) & {row["name"] for row in shown["metrics"]}
    assert len(front_html({**simulated_page(300), "pictures": {}}).encode()) < 300_000


def test_each_picture_is_on_the_page_once_and_there_are_as_many_as_there_is_room_for() -> None:
    data = invented_page()
    kept = packed(data)["pictures"]
    assert list(kept["trials"]) == ["8", "0", "1", "5"]  # the recommended one first
    assert sorted(kept["images"]) == sorted(["shared.jpg", *(f"{n}-{i}.jpg" for n in (8, 0, 1, 5) for i in (1, 2))])
    assert kept["left_out"] == 0
    for number, own in kept["trials"].items():
        for one, whole in zip(own["images"], data["pictures"][number]["images"], strict=True):
            assert {**kept["images"][one["image"]], **one} == whole
    large = invented_pictures([8, 0, 1, 5], WEBP + "A" * 100_000)
    few = packed(invented_page(pictures=large))["pictures"]
    assert list(few["trials"]) == ["8", "0"]
    assert few["left_out"] == 2
    assert len(safe_json(few)) < PICTURE_BYTES


def test_ten_records_and_more_do_not_change_those_of_others() -> None:
    records = simulated_records(30)
    one = page_data(SweepState("demo", 0.0, finished=True), [target_results(records)], written=1.0)
    assert one == page_data(SweepState("demo", 0.0, finished=True), [target_results(records)], written=1.0)
    assert sum(row["state"] == "failed" for row in one["trials"]) == sum(r.state == "failed" for r in records)
