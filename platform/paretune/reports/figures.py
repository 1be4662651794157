"""What all pictures share: figures without a window, names as plain text, boxes on images, and PNG files."""

from __future__ import annotations

import io
import re
from functools import cache
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError

TRUE, FOUND = "#34a853", "#d93025"
"""Colours of true boxes and of detected ones."""
GRID = "#e3e6ea"
BLUE, GREY, GREEN, RED = "#4285f4", "#9aa0a6", "#34a853", "#ea4335"
DPI = 110
DEFAULT_FONT = "DejaVu Sans"
"""The font that matplotlib brings; it has no Chinese, Japanese or Korean characters, among others."""


def new_figure(width: float, height: float, dpi: int = DPI) -> Any:
    """Return an empty ``matplotlib.figure.Figure`` of this size in inches, which needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=dpi)


def label(name: str, most: int = 40) -> str:
    r"""Return a name as matplotlib draws it: no formula, at most so many characters, all of which a font has.

    A character that no installed font has is escaped, such as ``\u8eca``.
    """
    drawn = (c if c.isascii() or font_with(c) else ascii(c)[1:-1] for c in name[:most])
    return "".join(drawn).replace("$", r"\$").lstrip("_") or "?"  # a legend leaves out what begins with _


@cache
def font_with(character: str) -> str | None:
    """Return the name of an installed font that has a character, the default font if it has it; None if none has."""
    from matplotlib.font_manager import fontManager

    entries = [entry for entry in fontManager.ttflist if not entry.name.startswith("Last Resort")]  # has only boxes
    entries.sort(key=lambda entry: (entry.name != DEFAULT_FONT, entry.style != "normal", entry.weight != 400))
    return next((entry.name for entry in entries if ord(character) in _characters(entry.fname)), None)


@cache
def _characters(file: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    try:
        return frozenset(get_font(file).get_charmap())
    except (OSError, RuntimeError):  # a damaged or removed font
        return frozenset()


def draw_box(axes: Any, box: Any, colour: str, text: str = "", *, below: bool = False, dashed: bool = False) -> None:
    """Draw a box (x1, y1, x2, y2) on an image, with a text above or below it."""
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = (float(edge) for edge in box)
    style = "--" if dashed else "-"
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.2, ls=style))
    if text:
        place = {"va": "top", "y": y2} if below else {"va": "bottom", "y": y1}
        axes.text(x=x1, s=label(text), c=colour, fontsize=6, clip_on=True, **place)


def plain_axes(axes: Any) -> None:
    """Draw a pale grid, and no frame at the top and on the right."""
    axes.grid(visible=True, color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


PAGE_COLOURS = {
    "#000000": "currentColor",
    "#ffffff": "var(--card)",
    "#cccccc": "var(--line)",
    GRID: "var(--grid)",
    BLUE: "var(--front)",
    GREY: "var(--other)",
    GREEN: "var(--rt)",
    RED: "var(--bad)",
}
"""Colours of a figure → those of a page, light or dark."""


def page_svg(figure: Any) -> str:
    """Return a figure as an SVG element in the colours of the page that it becomes a part of, its text as text."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none"}):
        text = rendered(figure, "svg").decode()
    text = text[text.index("<svg") :]
    head, body = text.split(">", 1)
    view = re.search(r'viewBox="[-0-9. ]+"', head)
    body = re.sub(r' id="[a-z0-9]+_\d+"', "", body)  # numbers of groups, the same in each figure
    for colour, named in PAGE_COLOURS.items():
        body = re.sub(rf"(fill|stroke): {colour}\b", rf"\1: {named}", body)
    return f"<svg {'' if view is None else view[0]}>{body}"


def rendered(figure: Any, form: str) -> bytes:
    """Return a figure as ``png`` or ``svg``."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    used = {c for text in texts for c in text.get_text() if not c.isascii()}
    fonts = dict.fromkeys([DEFAULT_FONT, *sorted(filter(None, map(font_with, used)))])
    for text in texts:
        text.set_fontfamily(list(fonts))
    content = io.BytesIO()
    metadata = {"metadata": dict.fromkeys(("Date", "Creator", "Format", "Type"))} if form == "svg" else {}
    with rc_context({"svg.hashsalt": "paretune"}):  # the picture of the same trials is the same file
        figure.savefig(content, format=form, **metadata)
    return content.getvalue()


def save_png(figure: Any, file: Path, what: str = "") -> Path:
    """Write a figure as a PNG file; ``what`` and the errors are those of ``save_figure``."""
    return save_figure(figure, file, "png", what)


def save_figure(figure: Any, file: Path, form: str, what: str = "") -> Path:
    """Write a figure into a file.

    Args:
        figure: a ``matplotlib.figure.Figure``.
        file: the file.
        form: ``png`` or ``svg``.
        what: text before the file's name in the message of an error.

    Returns:
        The file.

    Raises:
        UserError: the file cannot be written.
    """
    content = rendered(figure, form)
    try:
        file.write_bytes(content)
    except OSError as error:
        raise UserError(f"{what}{file}: cannot be written ({error.strerror})") from error
    return file
