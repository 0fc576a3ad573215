"""Weights of Google's released MixIT models, as a separator.

The released networks (github.com/google-research/sound-separation, models/neurips2020_mixit and
models/bird_mixit) are those of `Separator` with a learned basis. A checkpoint holds their sizes in
the shapes of its variables, but neither the sample rate nor how blocks are arranged in repeats.
"""

import glob
import os
import pathlib
import re

import numpy as np
import tensorflow as tf

from sepssl.errors import InputError, input_errors
from sepssl.separation.basis import LearnedBasis
from sepssl.separation.separator import Separator
from sepssl.separation.tdcn import TDCN
from sepssl.serialization import no_more_weights_than

FRAME_SECONDS = 0.0025


def import_google_checkpoint(
    prefix: str | os.PathLike,
    sample_rate: int = 16000,
    hop: int | None = None,
    dilations_per_repeat: int | None = None,
) -> Separator:
    """Reads a TensorFlow 1 checkpoint of the MixIT network.

    Other variables left by training (optimizer slots, the global step) are ignored.

    Args:
        prefix: path of the checkpoint without `.index` and `.data-...`.
        sample_rate: in Hz, of the recordings that the model was trained on: 16000 for the YFCC100M
            model, 22050 for the bird models.
        hop: samples from one frame to the next; None: 1.25 ms, as in the released models.
        dilations_per_repeat: blocks with dilations 1, 2, 4, ... before they start over; None: 8, as
            in the released models.

    Raises:
        InputError: if the checkpoint does not exist, a variable is missing or its shape does not
            match the rest of the network, or the sizes do not fit together.
    """
    prefix = os.fspath(prefix)
    for suffix in (".index", ".meta", ".data-00000-of-00001"):
        prefix = prefix.removesuffix(suffix)
    try:
        reader = tf.train.load_checkpoint(prefix)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{prefix}: not a TensorFlow checkpoint ({str(error).splitlines()[0]}); expected the "
            "common path of PREFIX.index and PREFIX.data-... without these endings"
        ) from error
    shapes = reader.get_variable_to_shape_map()
    expected = "expected a checkpoint of Google's MixIT network"

    def shape(name: str) -> list[int]:
        if name not in shapes:
            raise InputError(f"{prefix}: has no variable {name}; {expected}")
        return shapes[name]

    def sizes(name: str) -> list[int]:
        """Numbers of inputs and outputs of a dense layer."""
        if len(shape(name)) < 2 or min(shape(name)) < 1:
            raise InputError(f"{prefix}: {name} has the shape {shape(name)}; {expected}")
        return shape(name)[-2:]

    frame_length, num_coefficients = sizes("conv_encoder/dense/kernel")
    bottleneck_channels = sizes("initial_dense/dense/kernel")[1]
    conv_channels = sizes("improved_tdcn/conv_block_0/tdcn_block/dense1/dense/kernel")[1]
    num_sources = sizes("mix_weights/dense/kernel")[1]
    if hop is None:
        if frame_length != round(FRAME_SECONDS * sample_rate):
            raise InputError(
                f"{prefix}: has frames of {frame_length} samples, which at {sample_rate} Hz are "
                "not the 2.5 ms of the released models; expected another sample rate, or a hop too"
            )
        hop = round(FRAME_SECONDS / 2 * sample_rate)
    blocks = [re.match(r"improved_tdcn/conv_block_(\d{1,6})/", name) for name in shapes]
    num_blocks = 1 + max(int(match[1]) for match in blocks if match)
    per_repeat = 8 if dilations_per_repeat is None else dilations_per_repeat
    if per_repeat < 1 or num_blocks % per_repeat:
        raise InputError(
            f"{prefix}: has {num_blocks} blocks, but dilations_per_repeat is {per_repeat}; "
            "expected a divisor of the number of blocks"
        )
    with input_errors(prefix):
        separator = Separator(
            num_sources,
            LearnedBasis(num_coefficients, frame_length, hop),
            TDCN(
                bottleneck_channels=bottleneck_channels,
                conv_channels=conv_channels,
                dilations_per_repeat=per_repeat,
                repeats=num_blocks // per_repeat,
            ),
            sample_rate=sample_rate,
        )
    # Before memory is allocated, the data files must be as large as the index claims.
    path = pathlib.Path(prefix)
    size = sum(f.stat().st_size for f in path.parent.glob(f"{glob.escape(path.name)}.data-*"))
    with input_errors(prefix), no_more_weights_than(size, "bytes of the checkpoint"):
        separator.build((None, None))
    for variable, names in variable_names(separator):
        expected = variable.shape[1:] if len(names) > 1 else variable.shape
        for name in names:
            # A checkpoint has additional axes of size 1.
            if [n for n in shape(name) if n != 1] != [n for n in expected if n != 1]:
                raise InputError(
                    f"{prefix}: {name} has the shape {shape(name)}; expected {list(expected)}, as "
                    "the other variables imply"
                )
        try:
            values = np.stack([reader.get_tensor(name) for name in names])
        except (tf.errors.OpError, IndexError) as error:
            raise InputError(
                f"{prefix}: {names[0]} cannot be read ({str(error).splitlines()[0]}); expected a "
                "complete checkpoint, with its PREFIX.data-... files"
            ) from error
        variable.assign(np.reshape(values, variable.shape))
    return separator


def variable_names(separator: Separator) -> list[tuple]:
    """Every variable of the separator, with its name (or one per block) in a checkpoint."""
    tdcn = separator.tdcn
    stacked = {
        "dense1/dense/kernel": tdcn.up_kernel,
        "dense1/dense_scale/scale_layer": tdcn.up_scale,
        "normact1/prelu/prelu": tdcn.slope1,
        "normact1/instance_norm/gamma": tdcn.gain1,
        "normact1/instance_norm/beta": tdcn.bias1,
        "timeconv/separable_conv/depthwise_kernel": tdcn.conv_kernel,
        "timeconv/separable_conv/bias": tdcn.conv_bias,
        "normact2/prelu/prelu": tdcn.slope2,
        "normact2/instance_norm/gamma": tdcn.gain2,
        "normact2/instance_norm/beta": tdcn.bias2,
        "dense2/dense/kernel": tdcn.down_kernel,
        "dense2/dense_scale/scale_layer": tdcn.down_scale,
    }
    blocks = [f"improved_tdcn/conv_block_{b}/tdcn_block" for b in range(tdcn.num_blocks)]
    return [
        (separator.basis.encoder.kernel, ["conv_encoder/dense/kernel"]),
        (separator.basis.decoder.kernel, ["conv_decoder/dense_1/kernel"]),
        (tdcn.bottleneck.dense.kernel, ["initial_dense/dense/kernel"]),
        (tdcn.bottleneck.dense.bias, ["initial_dense/dense/bias"]),
        (tdcn.bottleneck.scale, ["initial_dense/dense_scale/scale_layer"]),
        (separator.mask.kernel, ["dense/kernel"]),
        (separator.consistency.kernel, ["mix_weights/dense/kernel"]),
        *(
            (variable, [f"{block}/{name}" for block in blocks])
            for name, variable in stacked.items()
        ),
    ]
