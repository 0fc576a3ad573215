"""The windows of an index as points of a page, each of which plays its sound."""

import base64
import datetime
import io
import os
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile

from sepssl.audio.files import audio_info, read_audio
from sepssl.data.annotations import Annotation, label_windows
from sepssl.errors import InputError
from sepssl.evaluation.projection import project
from sepssl.index.rows import StoredRows, read_rows
from sepssl.index.store import time_in
from sepssl.pipelines.classify import index_annotations
from sepssl.reports.map_page import write_map_page

LIMIT = 20_000  # points that a page draws without delay; our choice
SOUND_SECONDS = 1800.0  # of recordings in one page: some 50 MB at 16 kHz; our choice


def write_map(
    source: str | os.PathLike,
    output: str | os.PathLike,
    annotations: Sequence[Annotation] = (),
    rows: str = "both",
    method: str = "tsne",
    limit: int = LIMIT,
    seed: int = 0,
    self_contained: bool = False,
) -> tuple[int, int]:
    """Writes a page on which the windows of an index are points.

    Args:
        source: an index, or a file that sepssl-embed has written.
        output: a new `.html` file. It refers to the recordings by their place relative to its own,
            unless it holds them.
        annotations: labels, beside those in the index.
        rows: "mixture", or "both" its rows and those of channels.
        method: see `project`.
        limit: of points; of more rows, as many are drawn at random.
        seed: of that and of the projection.
        self_contained: whether the page holds the sound of the recordings that have points, so that
            it can be moved, mailed, or shown in a notebook.

    Returns:
        How many points there are, and of how many rows.

    Raises:
        InputError, OutputError: if the rows cannot be read or the page not be written; if the page
            would hold more than half an hour of sound.
    """
    everything = read_rows(source, rows)
    total = len(everything)
    shown = everything
    if total > limit:
        chosen = np.random.default_rng(seed).choice(total, limit, replace=False)
        shown = everything.select(np.sort(chosen))
    links = _sounds(shown) if self_contained else _links(shown, output)
    places = project(shown.vectors, method, seed)
    labels = _labels(shown, [*annotations, *index_annotations(source)])
    data = map_data(shown, places, labels, links)
    title = f"Map of {pathlib.Path(source).name}"
    write_map_page(output, title, data, total, self_contained)
    return len(shown), total


def map_data(
    rows: StoredRows, places: np.ndarray, labels: Sequence[str], links: Sequence[str]
) -> dict[str, Any]:
    """What the page knows of its points, in values that JSON knows.

    Args:
        rows: the points.
        places: float [rows, 2].
        labels: of each row, "" for none.
        links: of each recording, what the page plays, "" for nothing.

    Returns:
        `x` and `y`, from 0 to 10,000 (the longer side of the map); `recording`, place in `names`
        and `links`; `start`, `end` in seconds; `channel`; `folder` and `label`, as text; `hour` of
        the day, null if it is not known.
    """
    low, high = places.min(axis=0), places.max(axis=0)
    scaled = np.round((places - low) / max(float((high - low).max()), 1e-12) * 10_000).astype(int)
    folders = [name.rpartition("/")[0].split("/")[0] or "." for name in rows.names]
    recordings = rows.recording.tolist()
    hours = [
        _hour(rows.names[number], start)
        for number, start in zip(recordings, rows.starts.tolist(), strict=True)
    ]
    return {
        "x": scaled[:, 0].tolist(),
        "y": scaled[:, 1].tolist(),
        "recording": recordings,
        "names": rows.names,
        "links": list(links),
        "start": np.round(rows.starts, 3).tolist(),
        "end": np.round(rows.ends, 3).tolist(),
        "channel": rows.channels.tolist(),
        "folder": [folders[number] for number in recordings],
        "label": list(labels),
        "hour": hours,
    }


def _labels(rows: StoredRows, annotations: Sequence[Annotation]) -> list[str]:
    files, names = rows.files, rows.names
    found = label_windows(
        [files[number] for number in rows.recording],
        [names[number] for number in rows.recording],
        rows.starts,
        rows.ends,
        annotations,
        "ignore",
    )
    classes = np.array(found.classes, object)
    return [", ".join(classes[row == 1]) for row in found.labels]


def _hour(name: str, start: float) -> int | None:
    """The hour of the day in which something is heard, if the recording's name tells its time."""
    time = time_in(name)
    if time is None:
        return None
    return (datetime.datetime.fromisoformat(time) + datetime.timedelta(seconds=float(start))).hour


def _sounds(rows: StoredRows) -> list[str]:
    """Of each recording its sound, mono, as a link; "" if it has no point or cannot be read."""
    shown = set(rows.recording.tolist())
    paths = [path if number in shown else "" for number, path in enumerate(rows.paths)]
    seconds = sum(map(_seconds, paths))
    if seconds > SOUND_SECONDS:
        raise InputError(
            f"{rows.source}: its recordings last {seconds / 60:.0f} minutes; expected at most "
            f"{SOUND_SECONDS / 60:.0f} for a page that holds them"
        )
    return list(map(_sound, paths))


def _seconds(path: str) -> float:
    try:
        return audio_info(path, allow_truncated=True).duration if path else 0.0
    except InputError:
        return 0.0


def _sound(path: str) -> str:
    if not path:
        return ""
    flac = io.BytesIO()
    try:
        rate = audio_info(path, allow_truncated=True).sample_rate
        waveform = read_audio(path, None, allow_truncated=True)
        # Lossless, and browsers play it.
        soundfile.write(flac, waveform, rate, "PCM_16", format="FLAC")
    except (InputError, soundfile.LibsndfileError):  # damaged, or of a rate that FLAC does not know
        return ""
    return f"data:audio/flac;base64,{base64.b64encode(flac.getvalue()).decode()}"


def _links(rows: StoredRows, page: str | os.PathLike) -> list[str]:
    """Of each recording its file, relative to the page; "" if that is not known."""
    folder = pathlib.Path(page).absolute().parent
    return [path and _link(path, folder) for path in rows.paths]


def _link(path: str, folder: pathlib.Path) -> str:
    """A file as a page in a folder refers to it; any bytes may be in its name."""
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # on another drive of Windows
        return pathlib.Path(path).as_uri()
    return urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))
