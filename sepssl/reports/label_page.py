"""Windows to label: a page to hear, see and label them on, and the table that it saves."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from sepssl.files import atomic_file, write_csv
from sepssl.reports.found import Sound, shown_sounds
from sepssl.reports.html import TEMPLATES


class Candidate(NamedTuple):
    """A window to label.

    Attributes:
        row: its number in the index.
        recording: name of the recording.
        path: its file, "" if not known.
        start, end: in seconds from the beginning of the file.
        guess: what a classifier takes it for, "" for nothing.
    """

    row: int
    recording: str
    path: str
    start: float
    end: float
    guess: str = ""


def write_candidates_csv(path: str | os.PathLike, candidates: Sequence[Candidate]) -> None:
    """Writes `file,start,end,label,window,guess`, with labels to be filled in."""
    head = ["file", "start", "end", "label", "window", "guess"]
    rows = ([c.path or c.recording, c.start, c.end, "", c.row, c.guess] for c in candidates)
    write_csv(path, head, rows)


def write_label_page(
    path: str | os.PathLike,
    title: str,
    candidates: Sequence[Candidate],
    sounds: Sequence[Sound | None],
    classes: Sequence[str],
) -> None:
    """Writes one HTML page that needs no other file and no network.

    A click names the classes of a window, or that there are none; a button saves a CSV file with
    the columns of `write_candidates_csv` of what was labelled.

    Args:
        path: the page.
        title: its title.
        candidates: the windows.
        sounds: of each window, None if it could not be read.
        classes: names to choose from; others can be added on the page.
    """
    cards = [
        {
            "name": f"{number}. {c.recording}",
            "place": f"{c.start:.2f} to {c.end:.2f} s" + (f"; {c.guess}" if c.guess else ""),
            "tracks": shown_sounds([sound] if sound else []),
            "data": [c.path or c.recording, c.start, c.end, c.row],
        }
        for number, (c, sound) in enumerate(zip(candidates, sounds, strict=True), start=1)
    ]
    page = TEMPLATES.get_template("label.html").render(
        title=title, cards=cards, classes=list(classes)
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
