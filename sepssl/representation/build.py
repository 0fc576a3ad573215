"""The encoder that a configuration describes."""

from ml_collections import ConfigDict

from sepssl.audio.log_mel import LogMel
from sepssl.audio.panns_log_mel import PannsLogMel
from sepssl.errors import InputError, input_errors
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
FRONT_ENDS = {"log_mel": LogMel, "panns": PannsLogMel}


def make_encoder(config: ConfigDict, sample_rate: int = 16000, dtype: str = "float32") -> Encoder:
    """The network that `config.encoder` describes, with random weights.

    Args:
        config: "backbone" is one of `BACKBONES`, "front_end" one of `FRONT_ENDS`; a size of 0 means
            the backbone's default.
        sample_rate: in Hz, of the waveforms it is made for.
        dtype: Keras's policy for its layers, possibly a mixed one.

    Raises:
        InputError: if the backbone or front end is unknown, or not available at this rate, or if
            the backbone has no unpooled channels and some are asked for.
    """
    front_end = config.get("front_end", "log_mel")
    for key, name, known in (
        ("backbone", config.backbone, BACKBONES),
        ("front_end", front_end, FRONT_ENDS),
    ):
        if name not in known:
            raise InputError(f"encoder.{key}={name!r}: expected one of {', '.join(known)}")
    keys = ("embedding_size", "width", "unpooled_channels")
    sizes = {key: config[key] for key in keys if config.get(key)}
    if "unpooled_channels" in sizes and config.backbone != "small":
        raise InputError(
            f"encoder.unpooled_channels={config.unpooled_channels}: expected 0 for "
            f"encoder.backbone={config.backbone!r}; only 'small' has such channels"
        )
    with input_errors(f"data.sample_rate={sample_rate}, encoder.front_end={front_end}"):
        log_mel = FRONT_ENDS[front_end](
            sample_rate,
            patch_hop_frames=config.patch_hop_frames,
            cover_end=config.get("cover_end", False),
            normalize_level=config.get("normalize_level", "none"),
        )
    with input_errors("encoder"):
        return Encoder(BACKBONES[config.backbone](**sizes, dtype=dtype), log_mel, dtype=dtype)
