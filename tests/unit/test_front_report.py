"""The written report: what was searched, found, what it cost, what to deploy."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from paretune.results.front_report import report_html, report_markdown, report_parts, verdict
from paretune.results.page_data import SweepState, page_data
from tests_support_page import invented_page, target_results
from tests_support_records import fake_records


def markdown(data: dict[str, Any]) -> str:
    return report_markdown(data, report_parts(data))


def test_it_answers_in_its_chapters() -> None:
    text = markdown(invented_page())
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads == [
        "What was searched", "What was found on laptop", "What it cost", "What came of the advice",
        "What failed or was stopped", "What to deploy",
    ]  # fmt: skip
    assert "- trials: 14, of which 13 complete, 1 failed" in text
    found = text.partition("## What was found")[2].partition("## What it cost")[0]
    assert re.findall(r"^\| (\d+) \|", found, re.MULTILINE) == ["8", "5", "12", "6", "4", "2", "3", "0"]
    assert "| finetune | 5 min | 71% | 13 | 0 |" in text
    assert "| 1 | failed: RuntimeError: calibration saw &lt;no&gt; images &amp; gave up |" in text
    deployed = text.partition("## What to deploy")[2]
    assert "Trial 8 (128 prune 0.55 l1 → finetune 8 → int8 → onnxruntime) is the fastest" in deployed
    assert r"latency 1.25 ms \[1.21, 1.29\]" in deployed
    assert r"It changes map by -0.063 \[-0.073, -0.053\] against the eager baseline." in deployed
    assert "Its artefact is trials/0008/artefact." in deployed


def test_it_says_so_where_there_is_nothing_to_deploy() -> None:
    nothing = page_data(SweepState("demo", 0.0, finished=False), [target_results([])])
    assert verdict(nothing, nothing["targets"][0]) == "The eager baseline is not measured yet."
    assert "This is what is known so far" in markdown(nothing).replace("; this", ". This")
    broken = [record for record in fake_records() if record.number in (0, 9)]
    data = page_data(SweepState("demo", 0.0, finished=True), [target_results(broken, violations={0: {"f1": 1.0}})])
    data["targets"][0]["best"] = None
    assert "laptop: nothing yet. No trial keeps the constraints." in markdown(data)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)


def test_what_people_write_is_text_in_both_forms() -> None:
    evil = "<script>alert(1)</script> | [a](http://b) `c`\nd"
    data = invented_page(evil)
    data["about"]["dataset"] = evil
    for row in data["trials"]:
        row.update(recipe=evil, failure=row["failure"] and evil)
    text = markdown(data)
    assert "<script" not in text
    assert "[a](" not in text
    lines = [line for line in text.splitlines() if line.startswith("| 8 ")]
    assert len(re.findall(r"(?<!\\)\|", lines[0])) == 9  # a bar in a name is no border of a cell
    page = report_html(data, report_parts(data))
    plain = invented_page("demo")
    own = Tags(report_html(plain, report_parts(plain))).tags.count("script")  # the page's switch between light and dark
    assert Tags(page).tags.count("script") == own
    assert "&lt;script&gt;" in page
