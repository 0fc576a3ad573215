"""Mixture in, sources out."""

from sepssl.separation.basis import LearnedBasis, STFTBasis
from sepssl.separation.mixit import best_mixing, least_squares_mixing, mixit_loss
from sepssl.separation.permutation import pit_loss
from sepssl.separation.separator import Separator, load_separator
from sepssl.separation.tdcn import TDCN

__all__ = [
    "TDCN",
    "LearnedBasis",
    "STFTBasis",
    "Separator",
    "best_mixing",
    "least_squares_mixing",
    "load_separator",
    "mixit_loss",
    "pit_loss",
]
