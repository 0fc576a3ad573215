"""The encoder that a configuration describes."""

from ml_collections import ConfigDict

from sepssl.audio.log_mel import LogMel
from sepssl.errors import InputError
from sepssl.representation.backbones.cnn14 import Cnn14Backbone
from sepssl.representation.backbones.efficientnet_b0 import EfficientNetB0Backbone
from sepssl.representation.backbones.mobilenet_v1 import MobileNetV1Backbone
from sepssl.representation.backbones.small import SmallBackbone
from sepssl.representation.backbones.vggish import VggishBackbone
from sepssl.representation.encoder import Encoder

BACKBONES = {
    "small": SmallBackbone,
    "cnn14": Cnn14Backbone,
    "vggish": VggishBackbone,
    "mobilenet_v1": MobileNetV1Backbone,
    "efficientnet_b0": EfficientNetB0Backbone,
}


def make_encoder(config: ConfigDict) -> Encoder:
    """The network that `config.encoder` describes.

    Raises:
        InputError: if there is no such backbone.
    """
    if config.backbone not in BACKBONES:
        expected = ", ".join(BACKBONES)
        raise InputError(f"encoder.backbone={config.backbone!r}: expected one of {expected}")
    sizes = {key: config[key] for key in ("embedding_size", "width") if config[key]}
    log_mel = LogMel(patch_hop_frames=config.patch_hop_frames)
    return Encoder(BACKBONES[config.backbone](**sizes), log_mel)
