"""Spectrograms as pictures."""

import io
import pathlib
from typing import IO

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from sepssl.audio.spectrogram import COLOURS, LOWEST_DB

_GREY = "#7a828c"  # of numbers and lines: readable on white and on black


def draw_spectrogram(
    target: pathlib.Path | IO[bytes], level: np.ndarray, seconds: float, rate: int
) -> None:
    """Draws levels of `spectrogram_db`, relative to the loudest point, as PNG.

    Args:
        target: file to write.
        level: in dB [bins, frames].
        seconds: the sound's length.
        rate: its sample rate, in Hz.
    """
    figure = Figure((3.3, 2.2), dpi=120)  # half the size of the files at 150
    axes = figure.add_axes((0.14, 0.19, 0.83, 0.77))
    axes.imshow(
        level,
        COLOURS,
        vmin=LOWEST_DB,
        vmax=0,
        aspect="auto",
        origin="lower",
        extent=(0, seconds, 0, rate / 2000),
    )
    axes.set_xlabel("time (s)", color=_GREY)
    axes.set_ylabel("frequency (kHz)", color=_GREY)
    axes.tick_params(colors=_GREY)
    axes.spines[:].set_color(_GREY)
    drawn = io.BytesIO()
    figure.savefig(drawn, transparent=True)
    with Image.open(drawn) as picture:
        # 256 colours, as many as the scale has, in a quarter of the bytes.
        colours = picture.quantize(256, Image.Quantize.FASTOCTREE)
        colours.save(target, "PNG")
