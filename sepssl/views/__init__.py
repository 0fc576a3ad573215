"""Clip in, pair of views out."""

from sepssl.views.front_end import FrontEnd
from sepssl.views.online import OnlineSeparation

__all__ = ["FrontEnd", "OnlineSeparation"]
