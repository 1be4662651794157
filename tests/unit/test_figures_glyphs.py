"""Names of classes in pictures: any script is drawn without a warning, escaped where no font has it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.text import Text

from paretune.core.types import Annotations, Detections
from paretune.reports import figures
from paretune.reports.figures import DEFAULT_FONT, font_with, label, new_figure, rendered
from paretune.reports.training_plots import samples_png

SCRIPTS = ("汽车", "トラック", "자동차", "Fußgänger", "машина", "سيارة", "🚗")


def test_a_name_is_drawn_with_a_font_that_has_it_or_escaped() -> None:
    assert label("Fußgänger 1") == "Fußgänger 1"
    assert font_with("ß") == DEFAULT_FONT
    assert label("a$b_") == r"a\$b_"
    assert label("_x" * 30, 10) == "x_x_x_x_x"
    assert label("__") == "?"
    assert font_with("\U000e0fff") is None  # no character, so that no font has it
    assert label("a\U000e0fff") == r"a\U000e0fff"


def test_a_font_that_has_what_the_default_lacks_is_used() -> None:
    """matplotlib itself brings fonts with characters that its default font lacks."""
    entries = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist}
    others = set(font_manager.get_font(entries["STIXGeneral"]).get_charmap())
    lacking = others - set(font_manager.get_font(entries[DEFAULT_FONT]).get_charmap())
    word = "".join(chr(code) for code in sorted(lacking)[:3])
    fonts = {font_with(c) for c in word}
    assert None not in fonts
    assert DEFAULT_FONT not in fonts
    assert label(word) == word
    figure = new_figure(2, 2)
    figure.suptitle(label(word))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rendered(figure, "png")
    (title,) = [text for text in figure.findobj(Text) if text.get_text() == word]
    assert title.get_fontfamily() == [DEFAULT_FONT, *sorted(fonts)]


@pytest.mark.parametrize("font_is_missing", [False, True])
def test_no_script_makes_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, font_is_missing: bool) -> None:
    if font_is_missing:
        default = [entry for entry in font_manager.fontManager.ttflist if entry.name == DEFAULT_FONT]
        monkeypatch.setattr(font_manager.fontManager, "ttflist", default)
        monkeypatch.setattr(figures, "font_with", font_with.__wrapped__)
        assert label("汽车", 1) == r"\u6c7d"
    boxes = np.array([[2, 2, 20, 20]] * len(SCRIPTS), np.float32)
    labels = np.arange(len(SCRIPTS))
    truth = Annotations(boxes, labels, np.zeros(len(SCRIPTS), bool))
    found = Detections(boxes, np.full(len(SCRIPTS), 0.9, np.float32), labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples_png([np.zeros((32, 32, 3), np.uint8)], [truth], [found], SCRIPTS, tmp_path / "samples.png")
    assert (tmp_path / "samples.png").stat().st_size > 1000
