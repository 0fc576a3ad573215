"""A picture of pairs of views, each with a title that explains it."""

import os
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from sepssl.files import atomic_file
from sepssl.views.channels import MIXTURE, NO_CHANNEL
from sepssl.views.front_end import FrontEnd


def view_reasons(
    front_end: FrontEnd, batch: dict, shown: np.ndarray, separators: Sequence[str]
) -> list[list[str]]:
    """Describes where every view comes from, and whether another clip was mixed into it.

    Args:
        front_end: the layer that made the views.
        batch: its input, with "starts" [batch, 2] in samples.
        shown: int [batch, 2], as returned by `choose_views`.
        separators: names of the separators that batch["separator"] refers to by number.

    Returns:
        A text for each view, [batch][2], like "1.20 s: channel 3 of step-0000300, + neighbour at
        -12 dB".
    """
    mixed, levels = (np.asarray(x) for x in front_end.mixing(batch["uniforms"]))
    reasons = []
    for clip, starts in enumerate(np.asarray(batch["starts"])):
        pair = []
        for view, start in enumerate(starts):
            text = f"{start / front_end.log_mel.sample_rate:.2f} s: "
            if shown[clip, view] == MIXTURE:
                text += "mixture"
            elif shown[clip, view] == NO_CHANNEL:
                text += "mixture, no channel is loud enough"
            else:
                text += f"channel {shown[clip, view] + 1}"
                text += f" of {separators[batch['separator'][clip]]}"
            if mixed[clip, view]:
                text += f", + neighbour at {levels[clip, 0]:.0f} dB"
            pair.append(text)
        reasons.append(pair)
    return reasons


def draw_views(
    front_end: FrontEnd,
    batch: dict,
    names: Sequence[str],
    separators: Sequence[str],
    output: str | os.PathLike,
    count: int = 8,
) -> None:
    """Draws the log-mel spectrograms of pairs of views, one row per pair.

    Args:
        front_end: makes the views.
        batch: as `ViewBatches.load` returns it; an even number of clips.
        names: names of the clips.
        separators: names of the separators.
        output: path of the picture, ending in .png, .svg or .pdf; overwritten if it exists.
        count: largest number of pairs to draw.
    """
    count = min(count, len(names))
    batch = {key: value[: count + count % 2] for key, value in batch.items()}  # whole pairs
    a, b, shown = (np.asarray(x) for x in front_end(batch))
    reasons = view_reasons(front_end, batch, shown, separators)
    figure = Figure(figsize=(9, 1.6 * count), layout="constrained")
    panels = figure.subplots(count, 2, squeeze=False)
    for clip in range(count):
        low, high = min(a[clip].min(), b[clip].min()), max(a[clip].max(), b[clip].max())
        for axes, view, reason in zip(panels[clip], (a, b), reasons[clip], strict=True):
            axes.imshow(view[clip].T, origin="lower", aspect="auto", vmin=low, vmax=high)
            axes.set_title(reason, fontsize="small", parse_math=False)
            axes.set_xticks([])
            axes.set_yticks([])
        name = names[clip].rsplit("/", 1)[-1][-24:].encode("utf-8", "backslashreplace").decode()
        panels[clip, 0].set_ylabel(name, fontsize="x-small", parse_math=False)
    figure.supxlabel("time (one patch)")
    figure.supylabel("mel bands")
    with atomic_file(output, overwrite=True) as temporary, warnings.catch_warnings():
        # Names in scripts that Matplotlib's font lacks: boxes stand for these.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary, dpi=100)
