"""The report of a run: tables, learning curves and sounds as HTML pages that need no network."""

import html
import math
import numbers
import pathlib
import re
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from sepssl.audio.files import write_audio
from sepssl.audio.spectrogram import spectrogram_db
from sepssl.errors import InputError
from sepssl.files import atomic_folder

LOWEST_DB = -70.0  # the dark end of the colour scale; 0 dB is the loudest point of an example
_COLOURS = "magma"
_LOG_RATIO = 20  # last over first step from which the axis of steps is logarithmic
_DPI = 150
_RC = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(
        color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#a67c00", "#555555"]
    ),
    "text.parse_math": False,  # a name may hold a dollar sign
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2024; background: #fff;
  max-width: 1080px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; border-bottom: 1px solid #d5d9de; }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p { max-width: 46rem; }
a { color: #0060a0; margin-right: 1.25rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem; border-bottom: 1px solid #e3e6ea; text-align: left; }
tbody th { font-weight: normal; }
.results td, .results thead th + th { text-align: right; }
.scroll { overflow-x: auto; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1.5rem; }
figure { margin: 0 0 1.5rem; }
figcaption, .note { color: #545c66; font-size: .9rem; }
.grid figure { margin: 0; }
.grid figcaption { color: inherit; font-weight: 600; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; height: auto; }
audio { display: block; width: 100%; height: 2.25rem; margin-top: .25rem; }
"""


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
    rows: list[dict[str, float | str]],
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
        link = '<p><a href="classes.html">Every class, to see and to hear</a></p>'
        scale = _scale(temporary) if examples or class_examples else ""
        sounds = [
            f"<h3>{html.escape(example.title)}</h3>\n"
            f"<div class=grid>\n{_cards(temporary, i, example)}</div>"
            for i, example in enumerate(examples, start=1)
        ]
        sections = {
            "Results": _results(rows) if rows else "",
            "Learning curves of the separator": _separator_curves(temporary, separator_metrics),
            "Learning curves of the encoders": _encoder_curves(temporary, encoder_metrics),
            "Examples": "\n".join([scale, *sounds]) if sounds else "",
            "Sound classes": link if class_examples else "",
            "Facts about this run": _facts(facts) if facts else "",
        }
        sections = {heading: section for heading, section in sections.items() if section}
        body = [f"<p>{html.escape(paragraph)}</p>" for paragraph in introduction]
        body += [f'<a href="#section-{i}">{heading}</a>' for i, heading in enumerate(sections)]
        for i, (heading, section) in enumerate(sections.items()):
            body.append(f'<h2 id="section-{i}">{heading}</h2>\n{section}')
        _write_page(temporary / "index.html", title, body)
        if class_examples:
            cards = [
                _cards(temporary, i, example, is_class=True)
                for i, example in enumerate(class_examples, start=1)
            ]
            body = ['<p><a href="index.html">Back to the report</a></p>', scale]
            body.append(f"<div class=grid>\n{''.join(cards)}</div>")
            _write_page(temporary / "classes.html", f"Sound classes: {title}", body)
    return folder / "index.html"


def curve(records: list[dict], key: str) -> tuple[list[int], list[float]]:
    """(steps, values) of the records in which `key` is a finite number, in order of steps."""
    points = [(int(r["step"]), float(r[key])) for r in records if _finite(r.get(key))]
    points.sort(key=lambda point: point[0])
    return [step for step, _ in points], [value for _, value in points]


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


def _finite(value) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _write_page(path: pathlib.Path, title: str, body: list[str]) -> None:
    title = html.escape(title)
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    )
    path.write_text(head + "\n".join(body) + "\n</body>\n</html>\n", encoding="utf-8")


def _shown(value) -> str:
    if value is None:
        return "–"
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return f"{value:.3f}"
    return str(value)


def _results(rows: list[dict]) -> str:
    name, *columns = dict.fromkeys(key for row in rows for key in row)
    best = {}
    for column in columns:
        finite = [row[column] for row in rows if _finite(row.get(column))]
        if len(finite) > 1:
            best[column] = _shown(max(finite))
    heads = "".join(f"<th>{html.escape(key)}</th>" for key in [name, *columns])
    lines = []
    for row in rows:
        line = f"<th>{html.escape(_shown(row.get(name)))}</th>"
        for column in columns:
            text = html.escape(_shown(row.get(column)))
            bold = _finite(row.get(column)) and text == best.get(column)
            line += f"<td><b>{text}</b></td>" if bold else f"<td>{text}</td>"
        lines.append(f"<tr>{line}</tr>\n")
    note = "<p class=note>Bold: the largest value of a column.</p>" if best else ""
    return (
        f"<div class=scroll><table class=results><thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{''.join(lines)}</tbody></table></div>{note}"
    )


def _facts(facts: dict[str, str]) -> str:
    cells = (
        f"<tr><th>{html.escape(str(key))}</th><td>{html.escape(str(value))}</td></tr>\n"
        for key, value in facts.items()
    )
    return f"<div class=scroll><table><tbody>\n{''.join(cells)}</tbody></table></div>"


Panel = tuple[str, str, dict[str, tuple[list[int], list[float]]]]  # title, unit, label -> curve


def _separator_curves(folder: pathlib.Path, records: list[dict]) -> str:
    def panel(title: str, unit: str, keys: dict[str, str]) -> Panel:
        return title, unit, {label: curve(records, key) for label, key in keys.items()}

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
    return _draw_curves(
        folder / "figures" / "separator-training.png",
        training,
        "Training of the separator. Loss: lower is better. Signal-to-noise ratio: how well the two "
        "recordings of a mixture of mixtures are put together again from the separated channels.",
    ) + _draw_curves(
        folder / "figures" / "separator-validation.png",
        validation,
        "The kept states of the separator on validation clips; higher is better, and 0&nbsp;dB of "
        "SI-SNRi is as good as the mixture itself. Separated sources: improvement over the "
        "mixture, by the number of sources in a clip. A source on its own: how well one channel "
        "keeps the whole of it. MoMi: improvement of recordings remixed from the channels.",
    )


def _encoder_curves(folder: pathlib.Path, encoders: dict[str, list[dict]]) -> str:
    def panel(title: str, unit: str, key: str) -> Panel:
        return title, unit, {name: curve(records, key) for name, records in encoders.items()}

    panels = [
        panel("Training loss", "loss", "loss"),
        panel("Contrastive accuracy", "share of pairs found", "contrastive_accuracy"),
        panel("Alignment", "mean squared distance", "alignment"),
        panel("Uniformity", "log mean potential", "uniformity"),
    ]
    return _draw_curves(
        folder / "figures" / "encoders.png",
        panels,
        "Training of the encoders. Losses of different objectives cannot be compared. Accuracy: "
        "how often the view closest to a view is of the same clip. Alignment: distance between "
        "two views of a clip, lower is closer. Uniformity: lower is more evenly spread.",
    )


def _draw_curves(path: pathlib.Path, panels: list[Panel], caption: str) -> str:
    """Draws the panels that hold anything; the HTML of the figure, "" if none does."""
    panels = [panel for panel in panels if any(steps for steps, _ in panel[2].values())]
    if not panels:
        return ""
    steps = sorted({s for _, _, curves in panels for c in curves.values() for s in c[0]})
    columns = 2 if len(panels) in (2, 4) else 3
    lines = math.ceil(len(panels) / columns)
    figure = Figure((10.8, 2.9 * lines), _DPI, layout="constrained")
    for i, (title, unit, curves) in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, i)
        for label, (x, y) in curves.items():  # an empty curve uses up its colour all the same
            look = {"color": "#222222", "linestyle": "--"} if label == "mean" else {}
            dots = "o" if len(x) <= 20 else ""
            axes.plot(x, y, marker=dots, markersize=3.5, linewidth=1.3, label=label, **look)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_ylabel(unit)
        axes.grid(alpha=0.25)
        _step_axis(axes, steps)
    # One legend below for panels that all show the same encoders; else one inside each panel.
    if all(list(curves) == list(panels[0][2]) and "" not in curves for _, _, curves in panels):
        names = figure.axes[0].get_legend_handles_labels()
        figure.legend(*names, loc="outside lower left", ncols=3, frameon=False)
    else:
        for axes, (_, _, curves) in zip(figure.axes, panels, strict=True):
            if "" not in curves:
                axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)
    caption += " Step 0 is the untrained network." if steps[0] == 0 else ""
    alt = "Curves over training steps: " + "; ".join(title for title, _, _ in panels)
    return (
        f'<figure><img src="figures/{path.name}" alt="{alt}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def _step_axis(axes: Axes, steps: list[int]) -> None:
    """Logarithmic where steps span much, then linear from step 0 to the first other one."""
    axes.set_xlabel("step")
    positive = [step for step in steps if step > 0]
    if not positive or positive[-1] < _LOG_RATIO * positive[0]:
        axes.xaxis.get_major_locator().set_params(integer=True)
        return
    first, last = positive[0], positive[-1]
    axes.set_xscale("symlog", linthresh=first, linscale=0.5)
    decades = [10**k for k in range(len(str(last)))]
    minor = [m * d for d in decades for m in range(2, 10) if first <= m * d <= last]
    labelled = (1, 2, 5) if last < 100 * first else (1,)
    major = [m * d for d in decades for m in labelled if first <= m * d <= last]
    major = [0] * (steps[0] == 0) + major
    axes.set_xticks(minor, minor=True)
    axes.set_xticks(major, [f"{tick:,}" for tick in major])


def _scale(folder: pathlib.Path) -> str:
    """Draws the colour scale of all spectrograms; its HTML, with what they show."""
    figure = Figure((3.6, 0.62), _DPI)
    axes = figure.add_axes((0.04, 0.72, 0.92, 0.24))
    colours = ScalarMappable(Normalize(LOWEST_DB, 0), _COLOURS)
    figure.colorbar(colours, axes, orientation="horizontal", label="level (dB)")
    figure.savefig(folder / "figures" / "scale.png")
    return (
        "<p>Spectrograms: time from left to right, frequency from bottom to top, brighter is "
        "louder. 0&nbsp;dB is the loudest point of all the tracks of an example, so that a quiet "
        "track looks as quiet as it sounds beside the others.</p>\n"
        f'<p><img src="figures/scale.png" width=360 alt="Colours of {LOWEST_DB:.0f} to 0 dB"></p>'
    )


def _cards(folder: pathlib.Path, number: int, example: Example, is_class: bool = False) -> str:
    """Writes the sounds and spectrograms of an example; their HTML, a figure per track."""
    rate, waveforms = example.sample_rate, [np.asarray(w, np.float32) for _, w in example.tracks]
    levels = [spectrogram_db(waveform, rate) for waveform in waveforms]
    loudest = max([-120.0, *(float(level.max()) for level in levels)])  # silence stays dark
    scale = max([1.0, *(float(np.abs(waveform).max()) for waveform in waveforms)])
    cards = ""
    for i, (label, _) in enumerate(example.tracks):
        name = label
        if is_class:
            name = f"{example.title}: {label}" if len(waveforms) > 1 else example.title
        slug = re.sub("[^a-z0-9]+", "-", name.lower())[:40].strip("-")
        stem = f"class-{number:02d}-{i}-{slug}" if is_class else f"example-{number}-{i}-{slug}"
        write_audio(folder / "audio" / f"{stem}.wav", waveforms[i] / scale, rate)
        seconds = len(waveforms[i]) / rate
        _draw_spectrogram(folder / "figures" / f"{stem}.png", levels[i] - loudest, seconds, rate)
        cards += (
            f"<figure><figcaption>{html.escape(name)}</figcaption>"
            f'<img src="figures/{stem}.png" alt="Spectrogram of {html.escape(name)}">'
            f'<audio controls preload="metadata" src="audio/{stem}.wav"></audio></figure>\n'
        )
    if scale > 1:
        lower = f"{20 * math.log10(scale):.1f} dB lower, all tracks alike, since one would clip"
        cards += f"<p class=note>{html.escape(example.title)}: the sound is {lower}.</p>\n"
    return cards


def _draw_spectrogram(path: pathlib.Path, level: np.ndarray, seconds: float, rate: int) -> None:
    figure = Figure((3.3, 2.2), dpi=120)  # half the size of the files at 150
    axes = figure.add_axes((0.12, 0.19, 0.85, 0.77))
    size = {"aspect": "auto", "origin": "lower", "extent": (0, seconds, 0, rate / 2000)}
    axes.imshow(level, _COLOURS, vmin=LOWEST_DB, vmax=0, **size)
    axes.set_xlabel("time (s)")
    axes.set_ylabel("frequency (kHz)")
    figure.savefig(path)
