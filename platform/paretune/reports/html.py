"""HTML pages that need no other file, from the templates in this folder; every value in them is escaped."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.reports.tables import Table


@dataclass(frozen=True)
class Picture:
    """A PNG on a page."""

    alt: str
    """Text for readers who do not see the picture."""
    png: bytes
    title: str = ""
    """Heading above the picture."""
    about: str = ""
    """Explanation below the picture."""

    @property
    def source(self) -> str:
        """Return the picture as a URL that holds all of it."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def render(template: str, **values: Any) -> str:
    """Return a template of this folder with its values."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    places = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=places, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.get_template(template).render(values)


def report_page(title: str, parts: list[Table | Picture]) -> str:
    """Return a page of tables and pictures."""
    return render("report.html", title=title, parts=parts)
