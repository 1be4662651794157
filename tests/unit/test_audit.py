"""The verdict on what pip-audit says."""

from __future__ import annotations

import sys

from tests_support import ROOT

sys.path.insert(0, str(ROOT / "tests" / "tools"))

import audit

WEAK = {"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}


def test_a_weakness_that_is_mended_fails_and_one_that_is_not_is_told() -> None:
    assert audit.verdict([WEAK]) == (1, ["1 of 1 packages audited", "a 1: X-1: mended in 2"])
    unmended = {**WEAK, "vulns": [{"id": "X-2", "fix_versions": []}]}
    assert audit.verdict([unmended]) == (0, ["1 of 1 packages audited", "a 1: X-2: no version mends it"])


def test_what_could_not_be_asked_is_counted_and_never_called_right() -> None:
    skipped = {"name": "b", "skip_reason": "not found"}
    assert audit.verdict([WEAK | {"vulns": []}, skipped]) == (0, ["1 of 2 packages audited"])
    code, (line,) = audit.verdict([skipped])
    assert code == 0
    assert line.startswith("nothing was audited")
