"""The check of a dataset as text for the terminal."""

from __future__ import annotations

from collections import Counter

from paretune.data.checks.report import DatasetReport
from paretune.data.raw_annotations import KINDS, printable
from paretune.reports.tables import Table

MOST_CLASSES = 12
"""Most classes that are shown, the most frequent ones first."""


def report_text(report: DatasetReport, examples: int = 3) -> str:
    """Return a summary of a dataset, a table of its defects by kind, and the first defects of each kind.

    Args:
        report: result of the check.
        examples: defects of each kind that have a line.
    """
    lines = [_summary(report)]
    if not report.findings:
        return "\n".join([*lines, "no defects found"])
    lines += ["", _table(report).text().strip("\n")]
    for kind in report.counts:
        of_kind = [finding for finding in report.findings if finding.kind == kind]
        lines += ["", f"{kind}: {KINDS[kind][1]}", *(f"  {finding}" for finding in of_kind[:examples])]
        if len(of_kind) > examples:
            lines.append(f"  … {len(of_kind) - examples} more; --json tells all")
    return "\n".join([*lines, "", _verdict(report)])


def _summary(report: DatasetReport) -> str:
    tree = report.tree()
    splits = ", ".join(f"{name} {part['images']}" for name, part in report.splits.items()) or "none"
    common = Counter(report.classes).most_common(MOST_CLASSES)
    classes = ", ".join(f"{printable(name)} {count}" for name, count in common)
    more = f", {len(report.classes) - len(common)} more" if len(report.classes) > len(common) else ""
    head = f"{tree['images']} images, {tree['boxes']} boxes, {len(report.classes)} classes"
    return f"{head}\nsplits: {splits}\nclasses: {classes}{more}"


def _verdict(report: DatasetReport) -> str:
    hindering = sum(finding.hinders for finding in report.findings)
    others = len(report.findings) - hindering
    return f"{hindering} defects hinder training; {others} more are told" if hindering else "nothing hinders training"


def _table(report: DatasetReport) -> Table:
    first = {finding.kind: str(finding) for finding in reversed(report.findings)}
    rows = ((kind, str(n), "yes" if KINDS[kind][0] else "no", first[kind]) for kind, n in report.counts.items())
    head = ("defect", "count", "hinders", "the first")
    return Table("", head, tuple(rows), words=("hinders", "the first"), spare=("the first",))  # they follow below
