"""What a confirmation found, as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretune.core.console import table_text
from paretune.core.recipe_text import recipe_line
from paretune.results.confirmation import Confirmation

UNKNOWN = "-"


def confirmation_text(found: Confirmation) -> str:
    """Return the recipes that were tried, the chosen one seed by seed, and the claim."""
    asked, lines = found.asked, [f"trial {found.asked.trial} with {len(found.asked.seeds)} other seeds"]
    for number, one in enumerate(found.tried):
        mark = "*" if number == found.chosen else " "
        lines.append(f"{mark} {recipe_line(one.recipe)}: mean loss of {asked.metric} on val {one.mean_lost:.4f}")
    lines += [*_seeds(found).splitlines(), *_notes(found)]
    split, lost = found.claimed
    verdict = "holds" if found.holds else "is exceeded"
    mean = f"mean loss of {asked.metric} on {split} {lost:.4f}"
    lines.append(f"{mean}, over {len(asked.seeds)} seeds: --max-drop {asked.max_drop:g} {verdict}")
    return "\n".join(line.rstrip() for line in lines)


def _seeds(found: Confirmation) -> str:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("seed", "lost on val", "lost on test", "x eager", "x onnxruntime"):
        table.add_column(name, justify="right", no_wrap=True)
    on_test = found.lost_on_test
    gains = [found.speedups(name) for name in ("eager", "onnxruntime")]
    for seed, lost in found.kept.lost.items():
        tested = on_test.get(seed)
        ends = UNKNOWN if tested is None else f"{tested[1]:.4f} [{tested[0]:.4f}, {tested[2]:.4f}]"
        table.add_row(str(seed), f"{lost:.4f}", ends, *(_gain(gain.get(seed)) for gain in gains))
    return str(table_text(table))


def _gain(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return UNKNOWN
    tie = "= " if row["verdict"] == "tied" else ""
    return f"{tie}{row['speedup']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _notes(found: Confirmation) -> list[str]:
    """Return why figures are missing, and what is to be known of those that are there."""
    comparison = found.comparison
    notes = [f"speed-ups are not known: {comparison['reason']}"] if "reason" in comparison else []
    if not found.lost_on_test:
        why = comparison.get("no_test") or comparison.get("reason") or "it was not evaluated"
        notes.append(f"claimed on val, on which it was chosen too: {why}")
    return [*notes, *comparison.get("notes", ())]
