"""Every Keras class of the package, as small as it can be, with no argument at its default."""

import dataclasses
from typing import Any

import keras
import numpy as np

import sepssl
from sepssl.representation.backbones.batch_norm import GlobalBatchNorm
from sepssl.representation.backbones.efficientnet_b0 import InvertedBottleneck
from sepssl.separation.tdcn import ScaledDense


@dataclasses.dataclass(frozen=True)
class Case:
    """A class and what to know of it.

    Attributes:
        kind: the class.
        arguments: of its constructor, all of them; a function that makes them where they are
            layers themselves.
        inputs: what it is called with: a shape, or a dict or list of shapes.
        output: shape of what it returns; several: a list.
        wide: whether it computes in float32 under every global policy.
        trained: whether it has weights to train.
        xla: whether a training step is compiled by XLA, which takes seconds.
        deep: whether it is many of the layers above, slow to train, and trained by
            tests/representation/test_backbones.py.
    """

    kind: type
    arguments: Any
    inputs: Any
    output: Any
    wide: bool = False
    trained: bool = True
    xla: bool = False
    deep: bool = False

    def __str__(self):
        return self.kind.__name__

    def make(self, **options):
        arguments = self.arguments() if callable(self.arguments) else self.arguments
        return self.kind(**arguments, **options)

    def data(self, seed: int = 0):
        """Inputs in [-1, 1], or what an integer input may be."""
        rng = np.random.default_rng(seed)

        def draw(spec):
            if isinstance(spec, Whole):
                return rng.integers(0, spec.below, spec.shape).astype(np.int32)
            return (0.3 * rng.normal(size=spec)).clip(-1, 1).astype(np.float32)

        return map_inputs(draw, self.inputs)

    def symbols(self):
        """`keras.Input`s of any batch size."""

        def symbol(spec):
            if isinstance(spec, Whole):
                return keras.Input(spec.shape[1:], dtype="int32")
            return keras.Input(spec[1:])

        return map_inputs(symbol, self.inputs)

    def model(self, **options) -> keras.Model:
        """A functional model of the class alone."""
        symbols = self.symbols()
        return keras.Model(symbols, self.call(self.make(**options), symbols))

    @staticmethod
    def call(layer, inputs, **options):
        return layer(*inputs, **options) if isinstance(inputs, list) else layer(inputs, **options)


@dataclasses.dataclass(frozen=True)
class Whole:
    """Shape of an input of whole numbers, from 0 to `below - 1`."""

    shape: tuple[int, ...]
    below: int


def map_inputs(function, inputs):
    if isinstance(inputs, dict):
        return {name: function(spec) for name, spec in inputs.items()}
    if isinstance(inputs, list):
        return [function(spec) for spec in inputs]
    return function(inputs)


def without_build(config):
    """A configuration without the shapes that layers were built for."""
    if isinstance(config, dict):
        return {key: without_build(v) for key, v in config.items() if key != "build_config"}
    return [without_build(v) for v in config] if isinstance(config, list) else config


LOG_MEL = {
    "sample_rate": 4000,
    "window_seconds": 0.031,
    "hop_seconds": 0.016,
    "bands": 34,
    "low_hz": 60.0,
    "high_hz": 1900.0,
    "patch_frames": 36,
    "patch_hop_frames": 18,
    "cover_end": False,
    "normalize_level": "waveform",
}
PATCH = 35 * 64 + 124  # samples
PATCHES = (4, 36, 34)


def tdcn():
    return sepssl.TDCN(4, 6, 1, 1, unroll=True)


def separator(num_sources=2):
    return sepssl.Separator(num_sources, sepssl.STFTBasis(16, 8), tdcn(), sample_rate=4000)


def log_mel():
    return sepssl.LogMel(**LOG_MEL)


def encoder():
    return sepssl.Encoder(sepssl.SmallBackbone(5, width=2), log_mel())


VIEWS = {
    "mixture_mixture": 0.2,
    "mixture_channel": 0.5,
    "channel_channel": 0.3,
    "channel_floor_db": -20.0,
    "mixture_floor_db": -25.0,
    "example_mixing": 0.5,
    "min_mixing_db": -15.0,
    "max_mixing_db": -4.0,
    "mixing_domain": "log_mel",
    "equalization_db": 6.0,
    "time_masks": 2,
    "time_width": 7,
    "frequency_masks": 3,
    "frequency_width": 5,
    "separation": None,
    "seed": 3,
}
NUM_UNIFORMS = 7 + 2 * (6 + 2 * 5)


def backbone(kind, width):
    return Case(kind, {"embedding_size": 5, "width": width}, PATCHES, (4, 5), deep=True)


CASES = [
    Case(
        sepssl.LogMel,
        {**LOG_MEL, "offset": 0.01},
        (4, 4000),
        (4, 2, 36, 34),
        wide=True,
        trained=False,
    ),
    Case(sepssl.PannsLogMel, LOG_MEL, (4, 4000), (4, 2, 36, 34), wide=True, trained=False),
    Case(
        sepssl.LearnedBasis,
        {"num_coefficients": 6, "frame_length": 8, "hop": 4},
        (4, 50),
        (4, 50),
    ),
    Case(
        sepssl.STFTBasis,
        {"frame_length": 16, "hop": 4},
        (4, 50),
        (4, 50),
        wide=True,
        trained=False,
    ),
    Case(
        ScaledDense,
        {"units": 3, "use_bias": True, "initial_scale": 0.5},
        (4, 5, 6),
        (4, 5, 3),
    ),
    Case(
        sepssl.TDCN,
        {
            "bottleneck_channels": 4,
            "conv_channels": 6,
            "dilations_per_repeat": 1,
            "repeats": 2,
            "long_skips": True,
            "causal": True,
            "unroll": True,
            "rematerialize": True,
        },
        (4, 20, 5),
        (4, 20, 4),
    ),
    Case(
        sepssl.Separator,
        lambda: {
            "num_sources": 3,
            "basis": sepssl.LearnedBasis(6, 8, 4),
            "tdcn": tdcn(),
            "mixture_consistency": "power",
            "normalize_input": True,
            "sample_rate": 8000,
        },
        (4, 50),
        (4, 3, 50),
    ),
    Case(
        GlobalBatchNorm,
        {"momentum": 0.8, "epsilon": 1e-2, "scale": False},
        (4, 5, 6),
        (4, 5, 6),
    ),
    Case(
        InvertedBottleneck,
        {"filters": 4, "expansion": 2, "kernel_size": 5, "stride": 2},
        (4, 9, 7, 3),
        (4, 5, 4, 4),
    ),
    Case(
        sepssl.SmallBackbone,
        {"embedding_size": 6, "width": 2, "unpooled_channels": 1},
        PATCHES,
        (4, 6),
    ),
    Case(
        sepssl.WhitenedBackbone,
        lambda: {"backbone": sepssl.SmallBackbone(5, width=2), "embedding_size": 5},
        PATCHES,
        (4, 5),
    ),
    backbone(sepssl.Cnn14Backbone, 1),
    backbone(sepssl.VggishBackbone, 1),
    backbone(sepssl.MobileNetV1Backbone, 1),
    backbone(sepssl.EfficientNetB0Backbone, 4),
    Case(
        sepssl.Encoder,
        lambda: {"backbone": sepssl.SmallBackbone(5, width=2), "log_mel": log_mel()},
        (4, 4000),
        (4, 5),
    ),
    Case(sepssl.ProjectionHead, {"hidden_size": 7, "projection_size": 3}, (4, 5), (4, 3)),
    Case(sepssl.CoincidenceHead, {"hidden_size": 7}, [(4, 5), (4, 5)], (4, 4), xla=True),
    Case(
        sepssl.OnlineSeparation,
        lambda: {"separators": [separator(1), separator(2)], "patch_samples": 60},
        {
            "clips": (4, 200),
            "separator": Whole((4,), 2),
            "starts": Whole((4, 2), 100),
            "window": Whole((4,), 1),
        },
        {"mixtures": (4, 2, 60), "channels": (4, 2, 2, 60)},
        trained=False,
    ),
    Case(
        sepssl.FrontEnd,
        lambda: {"log_mel": log_mel(), **VIEWS},
        {
            "mixtures": (4, 2, PATCH),
            "channels": (4, 2, 3, PATCH),
            "uniforms": (4, NUM_UNIFORMS),
        },
        [PATCHES, PATCHES, (4, 2)],
        wide=True,
        trained=False,
    ),
]
