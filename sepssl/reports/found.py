"""Found windows: a table for terminals, files for other programs, a page to see and to hear."""

import base64
import io
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import soundfile

from sepssl.files import printable, write_csv, write_text
from sepssl.index.search import Found
from sepssl.reports.selections import Selection, audacity_labels, raven_table


class Sound(NamedTuple):
    """What a page shows of a window.

    Attributes:
        label: what it is.
        waveform: float32 [samples].
        sample_rate: in Hz.
    """

    label: str
    waveform: np.ndarray
    sample_rate: int


def found_table(found: Sequence[Found]) -> str:
    """A row for every window: rank, score, recording, start, end; channel and level if any has one.

    Times are those in the recording's file, in seconds.
    """
    with_channels = any(window.channel for window in found)
    rows = [
        ["", "score", "start", "end", *(["channel", "dB"] if with_channels else []), "recording"]
    ]
    for rank, window in enumerate(found, start=1):
        channel = [f"{window.channel or '-'}", f"{window.level_db:.1f}"] if with_channels else []
        start, end = in_file(window)
        numbers = [str(rank), f"{window.score:.3f}", f"{start:.3f}", f"{end:.3f}"]
        rows.append([*numbers, *channel, printable(window.recording)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return "\n".join(
        "  ".join([*map(str.rjust, row, widths), row[-1]])
        for row in rows  # numbers to the right
    )


def in_file(window: Found) -> tuple[float, float]:
    """Start and end of a window in the recording's file, in seconds."""
    return window.offset + window.start, window.offset + window.end


def recording_of(window: Found) -> str:
    """The file of a window or, where there is none, the recording's name."""
    return window.path or window.recording


def write_found_csv(path: str | os.PathLike, found: Sequence[Found]) -> None:
    """Writes `rank,score,file,start,end,channel,level_db,path,row`; times are those in the file."""
    head = ["rank", "score", "file", "start", "end", "channel", "level_db", "path", "row"]
    rows = []
    for rank, window in enumerate(found, start=1):
        place = [window.recording, *in_file(window), window.channel, f"{window.level_db:.2f}"]
        rows.append([rank, f"{window.score:.5f}", *place, window.path, window.row])
    write_csv(path, head, rows)


def write_raven(path: str | os.PathLike, found: Sequence[Found], high_hz: float) -> None:
    """Writes a selection table for Raven, over one or several files.

    Args:
        path: by convention ending in `.selections.txt`.
        found: the windows.
        high_hz: upper edge of the selections.
    """
    columns = ["Score", "Separated Channel", "Level (dB)"]
    write_text(path, raven_table(_selections(found, high_hz), columns))


def write_audacity(path: str | os.PathLike, found: Sequence[Found]) -> None:
    """Writes a label track for Audacity, of windows of one file, in the order of time."""
    write_text(path, audacity_labels(_selections(found, 0)))


def _selections(found: Sequence[Found], high_hz: float) -> list[Selection]:
    selections = []
    for window in found:
        channel = f" channel {window.channel}" if window.channel else ""
        values = (f"{window.score:.4f}", window.channel, f"{window.level_db:.2f}")
        label = f"{window.score:.3f}{channel}"
        selections.append(Selection(recording_of(window), *in_file(window), high_hz, label, values))
    return selections


def write_found_page(
    path: str | os.PathLike, title: str, found: Sequence[Found], sounds: Sequence[Sequence[Sound]]
) -> None:
    """Writes one HTML page that needs no other file and no network.

    Args:
        path: the page.
        title: its title.
        found: the windows.
        sounds: of each window: the recording's, and the channel's if that was found.
    """
    # Matplotlib and SciPy's signals take a second.
    from sepssl.audio.spectrogram import LOWEST_DB
    from sepssl.reports.html import TEMPLATES

    cards = []
    for rank, (window, tracks) in enumerate(zip(found, sounds, strict=True), start=1):
        start, end = in_file(window)
        place = f"{start:.2f} to {end:.2f} s"
        channel = f", channel {window.channel}, {window.level_db:.1f} dB" if window.channel else ""
        cards.append(
            {
                "name": f"{rank}. {printable(window.recording)}",
                "place": f"{place}, score {window.score:.3f}{channel}",
                "tracks": shown_sounds(tracks),
            }
        )
    page = TEMPLATES.get_template("found.html").render(
        title=title, cards=cards, lowest_db=round(LOWEST_DB)
    )
    write_text(path, page)


def shown_sounds(tracks: Sequence[Sound]) -> list[dict]:
    """Of each sound, for a page: its label, a spectrogram (PNG) and the sound (wav), in base64."""
    from sepssl.audio.spectrogram import spectrogram_db
    from sepssl.reports.spectrogram_picture import draw_spectrogram

    if not tracks:
        return []
    levels = [spectrogram_db(sound.waveform, sound.sample_rate) for sound in tracks]
    loudest = max([-120.0, *(float(level.max()) for level in levels)])
    scale = max([1.0, *(float(np.abs(sound.waveform).max()) for sound in tracks)])
    shown = []
    for sound, level in zip(tracks, levels, strict=True):
        picture, wav = io.BytesIO(), io.BytesIO()
        seconds = len(sound.waveform) / sound.sample_rate
        draw_spectrogram(picture, level - loudest, seconds, sound.sample_rate)
        soundfile.write(wav, sound.waveform / scale, sound.sample_rate, "PCM_16", format="WAV")
        shown.append(
            {
                "label": sound.label,
                "picture": as_base64(picture.getvalue()),
                "wav": as_base64(wav.getvalue()),
            }
        )
    return shown


def as_base64(content: bytes) -> str:
    """Bytes as pages hold them, after `data:TYPE;base64,`."""
    return base64.b64encode(content).decode()
