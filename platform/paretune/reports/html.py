"""HTML pages that need no other file, from the templates in this folder; every value in them is escaped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.reports.tables import Table

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Picture:
    """A drawing on a page."""

    alt: str
    """Text for readers who do not see the drawing."""
    svg: str
    """Result of ``figures.page_svg``, which is trusted."""
    title: str = ""
    """Heading above the drawing."""
    about: str = ""
    """Explanation below the drawing."""


def render(template: str, **values: Any) -> str:
    """Return a template of this folder with its values."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    places = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=places, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.get_template(template).render(values)


def source(*names: str) -> Markup:
    """Return files of the folder ``page`` one after the other, as they are: style and scripts of this package."""
    from markupsafe import Markup

    folder = Path(__file__).parent / "page"
    return Markup("\n".join((folder / name).read_text(encoding="utf-8") for name in names))  # noqa: S704


def report_page(title: str, parts: list[Table | Picture]) -> str:
    """Return a page of tables and drawings."""
    return render("report.html", title=title, parts=parts, style=source("page.css"), script=source("theme.js"))
