"""A confirmation as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretune.core.metrics import UNKNOWN
from paretune.core.recipe_text import recipe_line
from paretune.reports.tables import Table
from paretune.results.confirmation import Confirmation


def confirmation_text(confirmation: Confirmation) -> str:
    """Return the recipes that were tried, the chosen one seed by seed, and the claim."""
    asked, lines = (
        confirmation.asked,
        [f"trial {confirmation.asked.trial} with {len(confirmation.asked.seeds)} other seeds"],
    )
    for number, one in enumerate(confirmation.tried):
        mark = "*" if number == confirmation.chosen else " "
        lines.append(f"{mark} {recipe_line(one.recipe)}: mean loss of {asked.metric} on val {one.mean_lost:.4f}")
    lines += [*_seeds(confirmation).splitlines(), *_notes(confirmation)]
    split, lost = confirmation.claimed
    verdict = "holds" if confirmation.holds else "is exceeded"
    mean = f"mean loss of {asked.metric} on {split} {lost:.4f}"
    lines.append(f"{mean}, over {len(asked.seeds)} seeds: --max-drop {asked.max_drop:g} {verdict}")
    return "\n".join(line.rstrip() for line in lines)


def _seeds(confirmation: Confirmation) -> str:
    on_test = confirmation.lost_on_test
    gains = [confirmation.speedups(name) for name in ("eager", "onnxruntime")]
    rows = []
    for seed, lost in confirmation.kept.lost.items():
        tested = on_test.get(seed)
        ends = UNKNOWN if tested is None else f"{tested[1]:.4f} [{tested[0]:.4f}, {tested[2]:.4f}]"
        rows.append((str(seed), f"{lost:.4f}", ends, *(_gain(gain.get(seed)) for gain in gains)))
    head = ("seed", "lost on val", "lost on test", "x eager", "x onnxruntime")
    return Table("", head, tuple(rows), spare=("x onnxruntime", "lost on val")).text()


def _gain(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return UNKNOWN
    tie = "= " if row["verdict"] == "tied" else ""
    return f"{tie}{row['speedup']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _notes(confirmation: Confirmation) -> list[str]:
    """Return the reasons for missing figures, and the notes of the comparison."""
    comparison = confirmation.comparison
    notes = [f"speed-ups are not known: {comparison['reason']}"] if "reason" in comparison else []
    if not confirmation.lost_on_test:
        why = comparison.get("no_test") or comparison.get("reason") or "it was not evaluated"
        notes.append(f"claimed on val, on which it was chosen too: {why}")
    return [*notes, *comparison.get("notes", ())]
