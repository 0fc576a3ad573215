"""Self-supervised audio representations from automatically separated sound scenes.

The public names below are imported on first use, so that `import sepssl` takes no time. It
registers the package's Keras classes all the same: after it, `keras.saving.load_model` loads models
that contain a `Separator`, an `Encoder` or any other layer of this package.
"""

import importlib
from typing import TYPE_CHECKING

from sepssl.registration import register_with_keras
from sepssl.version import __version__

if TYPE_CHECKING:
    from sepssl.audio.log_mel import LogMel
    from sepssl.audio.panns_log_mel import PannsLogMel
    from sepssl.data.sources import open_clips
    from sepssl.errors import InputError
    from sepssl.inference import embed, embed_windows, separate
    from sepssl.representation.backbones.cnn14 import Cnn14Backbone
    from sepssl.representation.backbones.efficientnet_b0 import EfficientNetB0Backbone
    from sepssl.representation.backbones.mobilenet_v1 import MobileNetV1Backbone
    from sepssl.representation.backbones.small import SmallBackbone
    from sepssl.representation.backbones.vggish import VggishBackbone
    from sepssl.representation.coincidence import CoincidenceHead, coincidence_loss
    from sepssl.representation.encoder import Encoder, load_encoder
    from sepssl.representation.heads import ProjectionHead
    from sepssl.representation.nt_xent import nt_xent
    from sepssl.representation.whitening import WhitenedBackbone, whitened
    from sepssl.separation.basis import LearnedBasis, STFTBasis
    from sepssl.separation.mixit import mixit_loss
    from sepssl.separation.permutation import pit_loss
    from sepssl.separation.separator import Separator, load_separator
    from sepssl.separation.tdcn import TDCN
    from sepssl.serialization import save_model
    from sepssl.training.encoder import train_encoder
    from sepssl.training.separator import train_separator
    from sepssl.training.separator_learner import SeparatorLearner
    from sepssl.training.similarity_learner import SimilarityLearner
    from sepssl.training.supervised_learner import SupervisedLearner
    from sepssl.views.front_end import FrontEnd
    from sepssl.views.online import OnlineSeparation

__all__ = [
    "TDCN",
    "Cnn14Backbone",
    "CoincidenceHead",
    "EfficientNetB0Backbone",
    "Encoder",
    "FrontEnd",
    "InputError",
    "LearnedBasis",
    "LogMel",
    "MobileNetV1Backbone",
    "OnlineSeparation",
    "PannsLogMel",
    "ProjectionHead",
    "STFTBasis",
    "Separator",
    "SeparatorLearner",
    "SimilarityLearner",
    "SmallBackbone",
    "SupervisedLearner",
    "VggishBackbone",
    "WhitenedBackbone",
    "__version__",
    "coincidence_loss",
    "embed",
    "embed_windows",
    "load_encoder",
    "load_separator",
    "mixit_loss",
    "nt_xent",
    "open_clips",
    "pit_loss",
    "save_model",
    "separate",
    "train_encoder",
    "train_separator",
    "whitened",
]

_HOMES = {
    # Models
    "Separator": "sepssl.separation.separator",
    "LearnedBasis": "sepssl.separation.basis",
    "STFTBasis": "sepssl.separation.basis",
    "TDCN": "sepssl.separation.tdcn",
    "Encoder": "sepssl.representation.encoder",
    "SmallBackbone": "sepssl.representation.backbones.small",
    "Cnn14Backbone": "sepssl.representation.backbones.cnn14",
    "VggishBackbone": "sepssl.representation.backbones.vggish",
    "MobileNetV1Backbone": "sepssl.representation.backbones.mobilenet_v1",
    "EfficientNetB0Backbone": "sepssl.representation.backbones.efficientnet_b0",
    "WhitenedBackbone": "sepssl.representation.whitening",
    "ProjectionHead": "sepssl.representation.heads",
    "CoincidenceHead": "sepssl.representation.coincidence",
    # From waveforms to views
    "LogMel": "sepssl.audio.log_mel",
    "PannsLogMel": "sepssl.audio.panns_log_mel",
    "FrontEnd": "sepssl.views.front_end",
    "OnlineSeparation": "sepssl.views.online",
    # Losses
    "mixit_loss": "sepssl.separation.mixit",
    "pit_loss": "sepssl.separation.permutation",
    "nt_xent": "sepssl.representation.nt_xent",
    "coincidence_loss": "sepssl.representation.coincidence",
    # Training
    "SeparatorLearner": "sepssl.training.separator_learner",
    "SimilarityLearner": "sepssl.training.similarity_learner",
    "SupervisedLearner": "sepssl.training.supervised_learner",
    "train_separator": "sepssl.training.separator",
    "train_encoder": "sepssl.training.encoder",
    "whitened": "sepssl.representation.whitening",
    # Files and recordings
    "load_separator": "sepssl.separation.separator",
    "load_encoder": "sepssl.representation.encoder",
    "save_model": "sepssl.serialization",
    "separate": "sepssl.inference",
    "embed": "sepssl.inference",
    "embed_windows": "sepssl.inference",
    "open_clips": "sepssl.data.sources",
    "InputError": "sepssl.errors",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_keras()
