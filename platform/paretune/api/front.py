"""The Pareto front of a sweep as an object: points, table, picture, and the choice of one version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.api.inputs import missing_as_user_error
from paretune.api.picking import Bundle, rule_of
from paretune.config.output_folder import DEFAULT
from paretune.core.counts import counted
from paretune.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame  # type: ignore[import-untyped]

    from paretune.results.front_data import SweepView
    from paretune.results.pick import Pick, PickRule
    from paretune.results.sweep_folder import Sweep

FORMS = ("png", "svg", "html", "csv", "json")
"""Suffixes of the files that `Front.save` writes."""


class Front:
    """The front of a sweep on one of its targets, as it is on disk when it is first asked for.

    Example:
        >>> front = paretune.Front("first")
        >>> front.best["metrics"]["latency_ms"]
        >>> front.pick(max_latency="10ms").folder
    """

    @missing_as_user_error
    def __init__(self, sweep: str | Path | Sweep, runs: str | Path | None = None, *, target: str | None = None) -> None:
        """Find a sweep.

        Args:
            sweep: its name, or its folder.
            runs: output folder of a name; None is ``runs``.
            target: one of the job's targets; None is the first.

        Raises:
            UserError: there is no such sweep or target.
        """
        if isinstance(sweep, (str, Path)):
            from paretune.results.sweep_folder import find_sweep

            place = Path(sweep)
            inside = runs is None and len(place.parts) > 1
            sweep = find_sweep(place.parent if inside else Path(runs or DEFAULT), place.name if inside else str(sweep))
        self.sweep: Sweep = sweep.on(target)
        """The sweep's folder, job and records."""

    def __repr__(self) -> str:
        """Return the sweep, the target, and the number of points."""
        return (
            f"Front({self.sweep.name!r}, target={self.sweep.job.target_name!r}: {counted(len(self.points), 'point')})"
        )

    def __str__(self) -> str:
        """Return the front as ``paretune front`` prints it."""
        return self.text(self.sweep.job.target_name)

    def text(self, target: str | None = None) -> str:
        """Return the front as text.

        Args:
            target: one of the job's targets; None shows each.
        """
        from paretune.results.front_summary import front_text

        return front_text(self.sweep.on(None), target)

    def target(self, name: str) -> Front:
        """Return the front of another target of the same sweep.

        Args:
            name: of the target.

        Raises:
            UserError: the job has no such target.
        """
        return Front(self.sweep.on(None), target=name)

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The front as plain data, as ``paretune front --json --target`` prints it.

        Raises:
            UserError: the eager baseline is not measured yet.
        """
        tree: dict[str, Any] = json.loads(self.json(self.sweep.job.target_name))
        return tree

    def json(self, target: str | None = None) -> str:
        """Return the front as JSON.

        Args:
            target: one of the job's targets; None is the first, with all below ``targets`` if there are several.
        """
        from paretune.results.front_summary import front_json

        return front_json(self.sweep.on(None), target)

    @property
    def points(self) -> list[dict[str, Any]]:
        """Return the points of the front, each with trial, recipe, metrics and artefact, the cheapest first."""
        return list(self.tree["front"])

    @property
    def best(self) -> dict[str, Any] | None:
        """Return the point that is recommended, the fastest that keeps the job's constraints; None if there is none."""
        from paretune.search.pareto_front import best_point

        return None if self.tree["best"] is None else dict(best_point(self.tree))

    def artefact(self, trial: int) -> Path:
        """Return the folder of a trial's artefact.

        Args:
            trial: number of a point of the front, of the unchanged network, or of the baseline.

        Raises:
            UserError: the trial is none of these.
        """
        found = [*self.points, *self.tree["unchanged"], *filter(None, [self.tree["baseline"]])]
        known = {point["trial"]: point for point in found}
        if trial not in known:
            raise UserError(f"trial {trial} is not on the front; there are {', '.join(map(str, sorted(known)))}")
        return Path(self.sweep.folder, known[trial]["artefact"])

    @missing_as_user_error
    def dataframe(self, *, all_trials: bool = False) -> DataFrame:
        """Return a pandas table with a row for each point and a column for each parameter and metric.

        Args:
            all_trials: whether to take all trials, also those that failed, in place of the points of the front.

        Returns:
            The table, indexed by the trial's number. A figure that is not known is NaN.

        Raises:
            UserError: pandas is not installed.
        """
        import pandas as pd

        name = self.sweep.job.target_name
        rows = [row for row in self._page["trials"] if row["target"] == name and (all_trials or row["front"])]
        if not all_trials:
            order = [point["trial"] for point in self.points]
            rows.sort(key=lambda row: order.index(row["number"]))
        plain = ("state", "kind", "front", "origin", "recipe", "size", "runtime", "artefact", "failure")
        cells = [
            {"trial": row["number"], **{key: row[key] for key in plain}, **row["params"], **row["metrics"]}
            for row in rows
        ]
        return pd.DataFrame(cells, columns=None if cells else ["trial"]).set_index("trial")

    @missing_as_user_error
    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw all trials with the front and both baselines.

        Args:
            ax: matplotlib axes to draw in; None makes a figure, which needs no display.

        Returns:
            The axes.
        """
        from paretune.reports.front_plot import front_axes, plot_front

        axes = front_axes() if ax is None else ax
        plot_front(axes, self._page, self._page["targets"][0])
        return axes

    @missing_as_user_error
    def save(self, file: str | Path) -> Path:
        """Write the front into a file.

        Args:
            file: with suffix png or svg (picture), html (the interactive page), csv (a row for each point) or json.

        Returns:
            The file.

        Raises:
            UserError: another suffix, or the file cannot be written.
        """
        from paretune.reports.figures import rendered
        from paretune.reports.front_csv import front_csv
        from paretune.reports.front_page import front_html
        from paretune.results.front_data import data_of

        file = Path(file)
        form = file.suffix.removeprefix(".").lower()
        if form not in FORMS:
            raise UserError(f"{file}: a front is written as {', '.join(FORMS)}")
        if form in ("png", "svg"):
            content = rendered(self.plot().figure, form)
        else:
            texts = {
                "html": lambda: front_html(data_of(self._views)),
                "csv": lambda: front_csv(self.tree),
                "json": lambda: json.dumps(self.tree, indent=1),
            }
            content = texts[form]().encode("utf-8", errors="backslashreplace")
        try:
            file.write_bytes(content)
        except OSError as error:
            raise UserError(f"{file}: cannot be written ({error.strerror})") from error
        return file

    @missing_as_user_error
    def pick(
        self,
        *,
        max_latency: str | float | None = None,
        max_drop: float | None = None,
        min: str | Mapping[str, float] | None = None,  # noqa: A002 - as the option --min
        knee: bool = False,
        out: str | Path | None = None,
    ) -> Bundle:
        """Choose one point by a rule, and copy its artefact into a folder; without a rule take the recommended one.

        Args:
            max_latency: the most accurate point within so many milliseconds, or within a text such as ``"10ms"``.
            max_drop: the fastest that loses at most so much against the eager baseline.
            min: the fastest with at least that value of a metric, such as ``{"map50": 0.7}``.
            knee: the point farthest above the line between the front's ends.
            out: new folder; None writes ``picked/RULE`` in the sweep's folder and replaces an older bundle there.

        Raises:
            UserError: several rules, a limit that is not valid, or no point keeps the rule.
        """
        from paretune.results.front_summary import judge_of
        from paretune.results.pick import pick_text
        from paretune.workflows.pick import write_bundle

        chosen = self._chosen(rule_of(max_latency=max_latency, max_drop=max_drop, min=min, knee=knee))
        folder, facts = write_bundle(self.sweep, chosen, None if out is None else Path(out))
        return Bundle(folder, facts, pick_text(chosen, judge_of(self.sweep)))

    def _chosen(self, rule: PickRule) -> Pick:
        from paretune.workflows.pick import pick_from

        return pick_from(self.sweep.on(None), rule, self.sweep.job.target_name)

    @cached_property
    def _views(self) -> list[SweepView]:
        """The sweep as each of its targets has it, this one first."""
        from paretune.results.front_data import views_of
        from paretune.workflows.front_files import with_first

        views = views_of(self.sweep.on(None))
        return with_first(next(view for view in views if view.sweep.further == self.sweep.further), views)

    @cached_property
    def _page(self) -> dict[str, Any]:
        """The data of the front's page but the importance of parameters, which takes seconds."""
        from paretune.results.front_data import results_of, state_of
        from paretune.results.page_data import page_data

        first = self._views[0]
        return page_data(state_of(first.sweep, first.records), [results_of(view) for view in self._views])

    def _repr_html_(self) -> str:
        """Return the table of the front and its picture, which notebooks show."""
        from base64 import b64encode

        from paretune.reports.front_table import front_table
        from paretune.reports.html import render
        from paretune.results.front_summary import comparison_of

        baseline, best = self.tree["baseline"], self.tree["best"]
        table = front_table(self.tree, comparison_of(self.sweep), [baseline] if baseline else [])
        claim = f"{best['claim']}: trial {best['trial']}" if best else ""
        picture = b64encode(self._repr_png_()).decode()
        return render("front_cell.html", rows=table, best=claim, picture=picture)

    def _repr_png_(self) -> bytes:
        """Return the picture of the front as PNG, which notebooks show."""
        from paretune.reports.figures import rendered

        return rendered(self.plot().figure, "png")
