"""A page on which windows are points that play their sound."""

import json
import os
from typing import Any

from sepssl.files import atomic_file
from sepssl.reports.html import TEMPLATES


def write_map_page(
    path: str | os.PathLike, title: str, data: dict[str, Any], total: int, self_contained: bool
) -> None:
    """Writes one HTML page, without a network or other scripts.

    Args:
        path: the page.
        title: its title.
        data: the points, as `sepssl.pipelines.map.map_data` gives them.
        total: of how many rows they are.
        self_contained: whether the points have the sound itself, not links to files.
    """
    # Within a script element, a "</script>" or "<!--" in a name would end it.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    page = TEMPLATES.get_template("map.html").render(
        title=title,
        data=text,
        count=len(data["x"]),
        total=total,
        self_contained=self_contained,
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
