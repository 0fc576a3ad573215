"""Clip in, pair of views out."""

from sepssl.views.front_end import FrontEnd

__all__ = ["FrontEnd"]
