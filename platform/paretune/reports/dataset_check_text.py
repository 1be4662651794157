"""A report for a person."""

from __future__ import annotations

from collections import Counter

from paretune.core.console import table_text
from paretune.data.checks.report import DatasetReport
from paretune.data.raw_annotations import KINDS, printable

MOST_CLASSES = 12
"""Classes that are shown, the most frequent ones first."""


def report_text(report: DatasetReport, examples: int = 3) -> str:
    """Render a report: what is there, a table of the defects by kind, and the first examples of each kind.

    Args:
        report: to render.
        examples: defects of each kind that are told one by one.
    """
    lines = [_summary(report)]
    if not report.findings:
        return "\n".join([*lines, "no defects found"])
    lines += ["", *_table(report)]
    for kind in report.counts:
        ours = [finding for finding in report.findings if finding.kind == kind]
        lines += ["", f"{kind}: {KINDS[kind][1]}", *(f"  {finding}" for finding in ours[:examples])]
        if len(ours) > examples:
            lines.append(f"  … {len(ours) - examples} more; --json tells all")
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
    told = len(report.findings) - hindering
    return f"{hindering} defects hinder training; {told} more are told" if hindering else "nothing hinders training"


def _table(report: DatasetReport) -> list[str]:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("defect", no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("hinders", no_wrap=True)
    table.add_column("the first", overflow="fold")
    first = {finding.kind: finding for finding in reversed(report.findings)}
    for kind, count in report.counts.items():
        table.add_row(kind, str(count), "yes" if KINDS[kind][0] else "no", str(first[kind]))
    return table_text(table).strip("\n").splitlines()
