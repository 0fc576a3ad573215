"""Metrics over training steps, as pictures."""

import html
import io
import math
import numbers
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from sepssl.errors import InputError
from sepssl.files import atomic_file
from sepssl.training.monitors import read_metrics

_LOG_RATIO = 20  # last over first step from which the axis of steps is logarithmic

# Of pictures in a page, which has a light and a dark look: what is neither curve nor grid takes the
# page's own colour of text, in the place of this one.
_TEXT = "#010203"
_PAGE_LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sepssl",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # a name may hold a dollar sign
    "text.color": _TEXT,
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.titlecolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(  # told apart on white as on black
        color=["#2b88c9", "#d55e00", "#009e73", "#c76ba0", "#b08800", "#56b4e9", "#80868f"]
    ),
}

Curve = tuple[list[int], list[float]]  # steps, values


class Panel(NamedTuple):
    """One set of axes.

    Attributes:
        title: above it.
        unit: of its vertical axis.
        curves: label -> curve; a label of "" stands for the only curve.
    """

    title: str
    unit: str
    curves: dict[str, Curve]


def is_finite(value: object) -> bool:
    """Whether a value is a number other than NaN and infinity."""
    return isinstance(value, numbers.Real) and math.isfinite(value)


def curve(records: list[dict], key: str) -> Curve:
    """(steps, values) of the records in which `key` is a finite number, in order of steps."""
    points = [(int(r["step"]), float(r[key])) for r in records if is_finite(r.get(key))]
    points.sort(key=lambda point: point[0])
    return [step for step, _ in points], [value for _, value in points]


def steps_of(panels: Sequence[Panel]) -> list[int]:
    """All steps at which a curve has a value, in order."""
    return sorted({step for panel in panels for x, _ in panel.curves.values() for step in x})


def draw_panels(panels: Sequence[Panel], dpi: int = 150) -> Figure:
    """Draws panels over a common axis of steps, at most three side by side.

    Args:
        panels: at least one; one of them has a curve that is not empty.
        dpi: of the picture.
    """
    steps = steps_of(panels)
    columns = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    lines = math.ceil(len(panels) / columns)
    figure = Figure((10.8 if columns > 1 else 5.4, 2.9 * lines), dpi, layout="constrained")
    for i, panel in enumerate(panels, start=1):
        _draw(figure.add_subplot(lines, columns, i), panel, steps)
    # One legend below for panels that all show the same runs; else one inside each panel.
    if all(list(curves) == list(panels[0].curves) and "" not in curves for _, _, curves in panels):
        names = figure.axes[0].get_legend_handles_labels()
        figure.legend(*names, loc="outside lower left", ncols=3, frameon=False)
    else:
        for axes, (_, _, curves) in zip(figure.axes, panels, strict=True):
            if "" not in curves:
                axes.legend(frameon=False, fontsize=8)
    return figure


def curve_svgs(panels: Sequence[Panel], prefix: str) -> list[str]:
    """Panels over a common axis of steps, each as an SVG element for a page.

    Args:
        panels: those without a point are left out.
        prefix: begins the ids of their parts, and is to be another one in every call for a page.
    """
    panels = [panel for panel in panels if any(x for x, _ in panel.curves.values())]
    steps, drawn = steps_of(panels), list[str]()
    with matplotlib.rc_context(_PAGE_LOOK):
        for panel in panels:
            figure = Figure((4.8, 2.9), layout="constrained")
            axes = figure.add_subplot()
            _draw(axes, panel, steps)
            if "" not in panel.curves:
                axes.legend(frameon=False, fontsize=9)
            text = io.StringIO()
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            figure.savefig(text, format="svg", transparent=True, metadata=nothing)
            _, start, svg = text.getvalue().partition("<svg ")
            title = html.escape(f"{panel.title} over training steps")
            svg = f'{start}role="img" aria-label="{title}" {svg}'.replace(_TEXT, "currentColor")
            drawn.append(_with_prefixed_ids(svg, f"{prefix}-{len(drawn) + 1}-"))
    return drawn


def _with_prefixed_ids(svg: str, prefix: str) -> str:
    """Ids hold for a whole page, and Matplotlib gives those of one picture to the next as well."""

    def prefixed(tag: re.Match) -> str:
        return re.sub(' id="|url\\(#|xlink:href="#', rf"\g<0>{prefix}", tag[0])

    return re.sub("<[a-z][^>]*>", prefixed, svg)


def draw_curves(
    runs: Sequence[str | os.PathLike], metrics: Sequence[str], output: str | os.PathLike
) -> None:
    """Draws a panel per metric with a curve per run.

    Args:
        runs: folders of runs.
        metrics: names in their `metrics.jsonl`, as "validation/MoMi".
        output: a picture, ending in .png, .svg or .pdf.

    Raises:
        InputError: if a run or a metric is missing, or `output` exists.
    """
    if not runs or not metrics:
        raise InputError("no run or no metric to draw; expected at least one of each")
    records = {}
    for run in map(pathlib.Path, runs):
        records[run] = read_metrics(run / "metrics.jsonl")
        if not records[run]:
            raise InputError(f"{run}: has no metrics.jsonl; expected the folder of a run")
    known = {name for entries in records.values() for entry in entries for name in entry}
    panels = []
    for metric in metrics:
        if metric not in known:
            raise InputError(f"{metric}: no run has it; they have {', '.join(sorted(known))}")
        curves = {str(run): curve(entries, metric) for run, entries in records.items()}
        if not any(x for x, _ in curves.values()):
            raise InputError(f"{metric}: no run has a finite value of it")
        panels.append(Panel(metric.removeprefix("validation/"), "", curves))
    with atomic_file(output) as temporary:
        draw_panels(panels).savefig(temporary)


def _draw(axes: Axes, panel: Panel, steps: list[int]) -> None:
    for label, (x, y) in panel.curves.items():  # an empty curve uses up its colour all the same
        mean = {"color": matplotlib.rcParams["text.color"], "linestyle": "--"}
        look = mean if label == "mean" else {}
        dots = "o" if len(x) <= 20 else ""
        axes.plot(x, y, marker=dots, markersize=3.5, linewidth=1.3, label=label, **look)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_ylabel(panel.unit)
    axes.grid(alpha=0.25)
    _step_axis(axes, steps)


def _step_axis(axes: Axes, steps: list[int]) -> None:
    """Logarithmic where steps span much, then linear from step 0 to the first other one."""
    axes.set_xlabel("step")
    positive = [step for step in steps if step > 0]
    if not positive or positive[-1] < _LOG_RATIO * positive[0]:
        axes.locator_params("x", integer=True)
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
