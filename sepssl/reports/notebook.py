"""Sounds and pages as notebooks show them."""

import html
import os
import pathlib
import re
from collections.abc import Sequence

from sepssl.reports.found import Sound, shown_sounds
from sepssl.reports.html import TEMPLATES

_FRAME = re.compile(r'<iframe src="([^":]+)"')
_LINK = re.compile(r'<a href="[^":#]+">[^<]*</a>')


class Shown:
    """HTML that a notebook shows if it is the value of a cell, or is given to `display`.

    Attributes:
        html: the HTML.
    """

    def __init__(self, html: str):
        self.html = html

    def _repr_html_(self) -> str:
        return self.html


def show_sounds(*rows: Sequence[Sound]) -> Shown:
    """Sounds to see and to hear: spectrograms with players below them.

    Args:
        rows: sounds that stand side by side; their spectrograms have one scale of levels, and their
            players one scale of loudness.
    """
    template = TEMPLATES.get_template("sounds.html")
    return Shown(template.render(rows=[shown_sounds(row) for row in rows]))


def show_page(path: str | os.PathLike, height: int = 720) -> Shown:
    """A page that this package has written, in a frame, with the pages that it frames itself.

    A notebook shows it without the file, so links from it to other files are left out.

    Args:
        path: the page. Sounds and pictures have to be in it, as a map made with `self_contained`
            has them.
        height: of the frame, in pixels.
    """
    return Shown(f'<iframe srcdoc="{_quoted(path)}" width="100%" height="{height}"></iframe>')


def _quoted(path: str | os.PathLike) -> str:
    """A page as the value of an attribute."""
    path = pathlib.Path(path)
    text = _LINK.sub("", path.read_text(encoding="utf-8"))
    text = _FRAME.sub(lambda frame: f'<iframe srcdoc="{_quoted(path.parent / frame[1])}"', text)
    return html.escape(text)
