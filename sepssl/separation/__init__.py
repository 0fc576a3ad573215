"""Mixture in, sources out."""

from sepssl.separation.basis import LearnedBasis, STFTBasis
from sepssl.separation.learner import MixITLearner
from sepssl.separation.mixit import mixit_loss
from sepssl.separation.separator import Separator, load_separator
from sepssl.separation.tdcn import TDCN

__all__ = [
    "TDCN",
    "LearnedBasis",
    "MixITLearner",
    "STFTBasis",
    "Separator",
    "load_separator",
    "mixit_loss",
]
