"""The page of the quickstart: recordings and their channels, sounds found, a map, curves."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sepssl.files import write_text
from sepssl.reports.curves import Panel, curve, draw_panels
from sepssl.reports.found import Sound, shown_sounds
from sepssl.reports.html import TEMPLATES
from sepssl.reports.spectrogram_picture import LOWEST_DB


class Group(NamedTuple):
    """A section of the page.

    Attributes:
        heading: its heading.
        text: a paragraph below it.
        rows: sounds to see and to hear; of a row, spectrograms have one scale of levels.
    """

    heading: str
    text: str
    rows: Sequence[Sequence[Sound]]


def write_first_look(
    path: str | os.PathLike,
    groups: Sequence[Group],
    map_page: str,
    separator_metrics: list[dict],
    encoder_metrics: list[dict],
    commands: Sequence[str],
    facts: Mapping[str, str],
) -> None:
    """Writes one HTML page that holds its sounds and pictures.

    Args:
        path: the page.
        groups: sections with sounds.
        map_page: the map's file, relative to the page.
        separator_metrics, encoder_metrics: records of both trainings, if there were any.
        commands: what to run next.
        facts: a table of two columns.
    """
    panels = [
        Panel("Separator", "loss (dB)", {"": curve(separator_metrics, "loss")}),
        Panel("Encoder", "loss", {"": curve(encoder_metrics, "loss")}),
        Panel(
            "Encoder", "share of pairs found", {"": curve(encoder_metrics, "contrastive_accuracy")}
        ),
    ]
    panels = [panel for panel in panels if panel.curves[""][0]]
    curves = ""
    if panels:
        picture = io.BytesIO()
        draw_panels(panels).savefig(picture, format="png")
        curves = base64.b64encode(picture.getvalue()).decode()
    page = TEMPLATES.get_template("first_look.html").render(
        title="A first look at your recordings",
        groups=[
            {"heading": group.heading, "text": group.text, "rows": map(shown_sounds, group.rows)}
            for group in groups
        ],
        map_page=map_page,
        curves=curves,
        commands=commands,
        facts=facts,
        lowest_db=round(LOWEST_DB),
    )
    write_text(path, page)
