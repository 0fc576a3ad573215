"""Patch in, embedding out, and the objectives that train it."""

from sepssl.representation.coincidence import CoincidenceHead, coincidence_loss
from sepssl.representation.encoder import Encoder, load_encoder
from sepssl.representation.encoders.small import SmallBackbone
from sepssl.representation.heads import ProjectionHead
from sepssl.representation.learner import SimilarityLearner
from sepssl.representation.nt_xent import nt_xent

__all__ = [
    "CoincidenceHead",
    "Encoder",
    "ProjectionHead",
    "SimilarityLearner",
    "SmallBackbone",
    "coincidence_loss",
    "load_encoder",
    "nt_xent",
]
