"""Patch in, embedding out, and the training objectives."""

from sepssl.representation.backbones.cnn14 import Cnn14Backbone
from sepssl.representation.backbones.efficientnet_b0 import EfficientNetB0Backbone
from sepssl.representation.backbones.mobilenet_v1 import MobileNetV1Backbone
from sepssl.representation.backbones.small import SmallBackbone
from sepssl.representation.backbones.vggish import VggishBackbone
from sepssl.representation.coincidence import CoincidenceHead, coincidence_loss
from sepssl.representation.encoder import Encoder, load_encoder
from sepssl.representation.heads import ProjectionHead
from sepssl.representation.nt_xent import nt_xent
from sepssl.representation.panns_checkpoint import import_panns
from sepssl.representation.whitening import WhitenedBackbone, whitened

__all__ = [
    "Cnn14Backbone",
    "CoincidenceHead",
    "EfficientNetB0Backbone",
    "Encoder",
    "MobileNetV1Backbone",
    "ProjectionHead",
    "SmallBackbone",
    "VggishBackbone",
    "WhitenedBackbone",
    "coincidence_loss",
    "import_panns",
    "load_encoder",
    "nt_xent",
    "whitened",
]
