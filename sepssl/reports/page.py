"""Pages of results: tables, curves and sounds in one HTML file that needs no network."""

import math
import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from sepssl.audio.spectrogram import LOWEST_DB
from sepssl.errors import InputError
from sepssl.files import atomic_file
from sepssl.reports.curves import Panel, curve_svgs, is_finite
from sepssl.reports.found import Sound, as_base64, shown_sounds
from sepssl.reports.html import TEMPLATES


@dataclass(frozen=True)
class Section:
    """A part of a page. What is empty is left out.

    Attributes:
        heading: its heading.
        text: a paragraph below it.
        table: rows of results. The first key holds a row's name, each other key is a column. The
            largest finite number of a column is bold (with all that look equal to it) if there are
            at least two. A key that is missing or None is shown as a dash.
        curves: drawn side by side, or below each other where there is no room.
        sounds: rows of sounds to see and to hear; a row has one scale of levels, and one of
            loudness.
        folded: whether the sounds are shown only when they are asked for.
        picture: a PNG and what it shows, in words.
        frame: another page, relative to this one, that is shown within it.
        commands: lines for a terminal.
        facts: a table of two columns.
        otherwise: a sentence for a section in which nothing else is left.
    """

    heading: str
    text: str = ""
    table: Sequence[Mapping[str, float | str | None]] = ()
    curves: Sequence[Panel] = ()
    sounds: Sequence[Sequence[Sound]] = ()
    folded: bool = False
    picture: tuple[bytes, str] | None = None
    frame: str = ""
    commands: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    otherwise: str = ""


def write_page(
    path: str | os.PathLike, title: str, introduction: Sequence[str], sections: Sequence[Section]
) -> None:
    """Writes a page; all text is escaped. A page that is there is replaced.

    Args:
        path: the page.
        title: its title.
        introduction: paragraphs of plain text.
        sections: those in which there is nothing to show are left out.

    Raises:
        InputError: if a sound is not float [samples] at 1000 Hz or more, or holds NaN or infinity.
        OutputError: if the page cannot be written.
    """
    shown = [_shown_section(section, f"curve-{i}") for i, section in enumerate(sections, start=1)]
    page = TEMPLATES.get_template("page.html").render(
        title=title,
        introduction=introduction,
        sections=[section for section in shown if section],
        lowest_db=round(LOWEST_DB),
    )
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _shown_section(section: Section, ids: str) -> dict | None:
    """What the template shows of a section, with ids that begin with `ids` in its curves.

    None if that is nothing but its heading.
    """
    for row in section.sounds:
        for sound in row:
            _check(sound)
    shown = {
        "table": _table(section.table) if section.table else None,
        "curves": [Markup(svg) for svg in curve_svgs(section.curves, ids)],
        "sounds": [_row(row) for row in section.sounds],
        "picture": section.picture and (as_base64(section.picture[0]), section.picture[1]),
        "frame": section.frame,
        "commands": section.commands,
        "facts": section.facts,
    }
    empty = not any(shown.values())
    if empty and not section.otherwise:
        return None
    shown["otherwise"] = section.otherwise if empty else ""
    return shown | {
        "heading": section.heading,
        "text": section.text,
        "folded": section.folded,
    }


def _check(sound: Sound) -> None:
    found = np.asarray(sound.waveform)
    if found.ndim != 1 or not found.size or found.dtype.kind != "f" or sound.sample_rate < 1000:
        raise InputError(
            f"{sound.label}: is {found.dtype} {list(found.shape)} at {sound.sample_rate} Hz; "
            "expected float [samples] at 1000 Hz or more"
        )
    if not np.isfinite(found).all():
        raise InputError(f"{sound.label}: holds NaN or infinity; expected numbers")


def _row(sounds: Sequence[Sound]) -> dict:
    """The sounds of a row, and by how many dB they are played lower, lest one clip."""
    scale = max([1.0, *(float(np.abs(sound.waveform).max()) for sound in sounds)])
    return {
        "sounds": shown_sounds(sounds),
        "lower_db": f"{20 * math.log10(scale):.1f}" if scale > 1 else "",
    }


def _shown(value) -> str:
    if value is None:
        return "–"
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return f"{value:.3f}"
    return str(value)


def _table(rows: Sequence[Mapping]) -> dict:
    """Heads, and rows as (name, cells); a cell is (text, whether it is the best)."""
    name, *columns = dict.fromkeys(key for row in rows for key in row)
    best = {}
    for column in columns:
        finite = [row[column] for row in rows if is_finite(row.get(column))]
        if len(finite) > 1:
            best[column] = _shown(max(finite))
    lines = []
    for row in rows:
        cells = []
        for column in columns:
            text = _shown(row.get(column))
            cells.append((text, is_finite(row.get(column)) and text == best.get(column)))
        lines.append((_shown(row.get(name)), cells))
    return {"heads": [name, *columns], "rows": lines, "has_best": bool(best)}
