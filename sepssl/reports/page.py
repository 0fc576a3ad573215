"""The report of a run: tables, learning curves and sounds as HTML pages that need no network."""

import math
import numbers
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from sepssl.audio.files import write_audio
from sepssl.audio.spectrogram import spectrogram_db
from sepssl.errors import InputError
from sepssl.files import atomic_folder
from sepssl.reports.curves import Panel, curve, draw_panels, is_finite, steps_of
from sepssl.reports.html import TEMPLATES
from sepssl.reports.spectrogram_picture import COLOURS, LOWEST_DB, draw_spectrogram

_DPI = 150
_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(
        color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#a67c00", "#555555"]
    ),
    "text.parse_math": False,  # a name may hold a dollar sign
}


@dataclass(frozen=True)
class Example:
    """Something to look at and listen to.

    Attributes:
        title: what it is.
        sample_rate: of all tracks, Hz.
        tracks: (label, waveform); a waveform is float [samples], full scale 1; for example the
            mixture, then its separated channels.
    """

    title: str
    sample_rate: int
    tracks: list[tuple[str, np.ndarray]]


def write_report(
    folder: pathlib.Path,
    title: str,
    introduction: list[str],
    rows: list[dict[str, float | str | None]],
    separator_metrics: list[dict],
    encoder_metrics: dict[str, list[dict]],
    examples: list[Example],
    class_examples: list[Example],
    facts: dict[str, str],
) -> pathlib.Path:
    """Writes `index.html`, `classes.html` if there are classes, `figures/` and `audio/`.

    All text is escaped. Parts for which there is nothing are left out.

    Args:
        folder: new or empty; appears whole or not at all.
        title: of the page.
        introduction: paragraphs of plain text.
        rows: of the table of results. The first key holds a row's name, each other key is a
            column. The largest finite number of a column is bold (with all that look equal to
            it) if there are at least two. A key that is missing or None is shown as a dash.
        separator_metrics: records of the separator's `metrics.jsonl`.
        encoder_metrics: name of an encoder -> records of its `metrics.jsonl`.
        examples: shown on `index.html`.
        class_examples: one per sound class, shown on `classes.html`.
        facts: a table of two columns.

    Returns:
        Path of `index.html`.

    Raises:
        InputError: if `folder` is not empty or cannot be written, or if a waveform is not float
            [samples] at 1000 Hz or more, or holds NaN or infinity.
    """
    for example in [*examples, *class_examples]:
        _check(example)
    folder = pathlib.Path(folder)
    with atomic_folder(folder) as temporary, matplotlib.rc_context(_RC):
        (temporary / "figures").mkdir()
        (temporary / "audio").mkdir()
        if examples or class_examples:
            _draw_scale(temporary / "figures" / "scale.png")
        classes = [
            _write_example(temporary, f"class-{i:02d}", example, is_class=True)
            for i, example in enumerate(class_examples, start=1)
        ]
        shared = {"lowest_db": round(LOWEST_DB), "classes": classes}
        _write_page(
            temporary / "index.html",
            title=title,
            introduction=introduction,
            table=_table(rows) if rows else None,
            separator_figures=_separator_figures(temporary / "figures", separator_metrics),
            encoder_figures=_encoder_figures(temporary / "figures", encoder_metrics),
            examples=[
                _write_example(temporary, f"example-{i}", example)
                for i, example in enumerate(examples, start=1)
            ],
            facts=facts,
            **shared,
        )
        if classes:
            _write_page(temporary / "classes.html", title=f"Sound classes: {title}", **shared)
    return folder / "index.html"


def _check(example: Example) -> None:
    for label, waveform in example.tracks:
        found = np.asarray(waveform)
        if (
            found.ndim != 1
            or not found.size
            or found.dtype.kind != "f"
            or example.sample_rate < 1000
        ):
            raise InputError(
                f"{example.title}, {label}: is {found.dtype} {list(found.shape)} at "
                f"{example.sample_rate} Hz; expected float [samples] at 1000 Hz or more"
            )
        if not np.isfinite(found).all():
            raise InputError(f"{example.title}, {label}: holds NaN or infinity; expected numbers")


def _write_page(path: pathlib.Path, **values) -> None:
    path.write_text(TEMPLATES.get_template(path.name).render(values), encoding="utf-8")


def _shown(value) -> str:
    if value is None:
        return "–"
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return f"{value:.3f}"
    return str(value)


def _table(rows: list[dict]) -> dict:
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


def _separator_figures(folder: pathlib.Path, records: list[dict]) -> list[dict]:
    def panel(title: str, unit: str, keys: dict[str, str]) -> Panel:
        return Panel(title, unit, {label: curve(records, key) for label, key in keys.items()})

    found = re.findall(r"validation/SI-SNRi_(\d+)\b", " ".join(set().union(*records)))
    by_count = {f"{n} sources": f"validation/SI-SNRi_{n}" for n in sorted(map(int, found))}
    training = [
        panel("Training loss", "loss (dB)", {"": "loss"}),
        panel("Signal-to-noise ratio in training", "SNR (dB)", {"": "snr"}),
    ]
    validation = [
        panel("Separated sources", "SI-SNRi (dB)", by_count | {"mean": "validation/MSi"}),
        panel("A source on its own", "SI-SNR (dB)", {"": "validation/1S"}),
        panel("Remixed mixtures (MoMi)", "SI-SNRi (dB)", {"": "validation/MoMi"}),
    ]
    return _draw_figure(
        folder / "separator-training.png",
        training,
        "Training of the separator. Loss: lower is better. Signal-to-noise ratio: how well the two "
        "recordings of a mixture of mixtures are put together again from the separated channels.",
    ) + _draw_figure(
        folder / "separator-validation.png",
        validation,
        "The kept states of the separator on validation clips; higher is better, and 0\u00a0dB of "
        "SI-SNRi is as good as the mixture itself. Separated sources: improvement over the "
        "mixture, by the number of sources in a clip. A source on its own: how well one channel "
        "keeps the whole of it. MoMi: improvement of recordings remixed from the channels.",
    )


def _encoder_figures(folder: pathlib.Path, encoders: dict[str, list[dict]]) -> list[dict]:
    def panel(title: str, unit: str, key: str) -> Panel:
        return Panel(title, unit, {name: curve(records, key) for name, records in encoders.items()})

    panels = [
        panel("Training loss", "loss", "loss"),
        panel("Contrastive accuracy", "share of pairs found", "contrastive_accuracy"),
        panel("Alignment", "mean squared distance", "alignment"),
        panel("Uniformity", "log mean potential", "uniformity"),
    ]
    return _draw_figure(
        folder / "encoders.png",
        panels,
        "Training of the encoders. Losses of different objectives cannot be compared. Accuracy: "
        "how often the view closest to a view is of the same clip. Alignment: distance between "
        "two views of a clip, lower is closer. Uniformity: lower is more evenly spread.",
    )


def _draw_figure(path: pathlib.Path, panels: Sequence[Panel], caption: str) -> list[dict]:
    """Draws the panels that hold anything; what the page says of the figure, if there is one."""
    panels = [panel for panel in panels if any(steps for steps, _ in panel.curves.values())]
    if not panels:
        return []
    draw_panels(panels, _DPI).savefig(path)
    caption += " Step 0 is the untrained network." if steps_of(panels)[0] == 0 else ""
    alt = "Curves over training steps: " + "; ".join(panel.title for panel in panels)
    return [{"name": path.name, "alt": alt, "caption": caption}]


def _draw_scale(path: pathlib.Path) -> None:
    """Draws the colour scale of all spectrograms."""
    figure = Figure((3.6, 0.62), _DPI)
    axes = figure.add_axes((0.04, 0.72, 0.92, 0.24))
    colours = ScalarMappable(Normalize(LOWEST_DB, 0), COLOURS)
    figure.colorbar(colours, axes, orientation="horizontal", label="level (dB)")
    figure.savefig(path)


def _write_example(
    folder: pathlib.Path, prefix: str, example: Example, is_class: bool = False
) -> dict:
    """Writes the sounds and spectrograms of an example; what the page shows of it."""
    rate, waveforms = example.sample_rate, [np.asarray(w, np.float32) for _, w in example.tracks]
    levels = [spectrogram_db(waveform, rate) for waveform in waveforms]
    loudest = max([-120.0, *(float(level.max()) for level in levels)])  # silence stays dark
    scale = max([1.0, *(float(np.abs(waveform).max()) for waveform in waveforms)])
    cards = []
    for i, (label, _) in enumerate(example.tracks):
        name = label
        if is_class:
            name = f"{example.title}: {label}" if len(waveforms) > 1 else example.title
        slug = re.sub("[^a-z0-9]+", "-", name.lower())[:40].strip("-")
        stem = f"{prefix}-{i}-{slug}"
        write_audio(folder / "audio" / f"{stem}.wav", waveforms[i] / scale, rate)
        seconds = len(waveforms[i]) / rate
        draw_spectrogram(folder / "figures" / f"{stem}.png", levels[i] - loudest, seconds, rate)
        cards.append({"name": name, "stem": stem})
    lower_db = f"{20 * math.log10(scale):.1f}" if scale > 1 else None
    return {"title": example.title, "cards": cards, "lower_db": lower_db}
