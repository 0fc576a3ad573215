"""Spans of recordings in the files that Raven and Audacity read."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sepssl.files import printable

_RAVEN = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)"),
    *("High Freq (Hz)", "Begin Path", "File Offset (s)"),
)


class Selection(NamedTuple):
    """A span of a recording.

    Attributes:
        path: of the file.
        start, end: in it, in seconds.
        high_hz: upper edge in Raven.
        label: in Audacity.
        values: of further columns in Raven.
    """

    path: str
    start: float
    end: float
    high_hz: float
    label: str
    values: Sequence[object]


def raven_table(selections: Iterable[Selection], columns: Sequence[str]) -> str:
    """A selection table for Raven, over one or several files.

    Args:
        selections: its rows.
        columns: names of further columns.
    """
    rows: list[Sequence[object]] = [[*_RAVEN, *columns]]
    for number, selection in enumerate(selections, start=1):
        start, end = f"{selection.start:.6f}", f"{selection.end:.6f}"
        place = [number, "Spectrogram 1", 1, start, end, 0, f"{selection.high_hz:g}"]
        rows.append([*place, selection.path, start, *selection.values])
    return "".join("\t".join(printable(str(cell)) for cell in row) + "\n" for row in rows)


def audacity_labels(selections: Iterable[Selection]) -> str:
    """A label track for Audacity, of spans of one file, in the order of time."""
    ordered = sorted(selections, key=lambda selection: (selection.start, selection.end))
    return "".join(
        f"{selection.start:.6f}\t{selection.end:.6f}\t{selection.label}\n" for selection in ordered
    )
