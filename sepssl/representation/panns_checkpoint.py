"""Weights of PANNs' released CNN14 models, as an encoder.

The released files (zenodo.org/record/3987831, `Cnn14_mAP=0.431.pth` at 32 kHz and
`Cnn14_16k_mAP=0.438.pth` at 16 kHz) contain PyTorch's state of the network and its front end.
"""

import os
import pickle
import re
import zipfile
from typing import Any

import keras
import numpy as np

from sepssl.audio.panns_log_mel import PannsLogMel, slaney_mel_matrix
from sepssl.errors import InputError, input_errors
from sepssl.representation.backbones.cnn14 import Cnn14Backbone
from sepssl.representation.encoder import Encoder
from sepssl.serialization import no_more_weights_than

FRAME_SECONDS = 0.032
STFT_REAL = "spectrogram_extractor.stft.conv_real.weight"
STFT_IMAGINARY = "spectrogram_extractor.stft.conv_imag.weight"
MEL = "logmel_extractor.melW"
FIRST_CONV = "conv_block1.conv1.weight"
DENSE = "fc1.weight"
UNUSED = ("fc_audioset.weight", "fc_audioset.bias")
TO_TORCH = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}  # axes of Keras's weights in PyTorch's order


def import_panns(path: str | os.PathLike) -> Encoder:
    """Reads a PyTorch checkpoint of PANNs' CNN14.

    Sizes and the sample rate are inferred from the shapes. The classifier is omitted: its input is
    the embedding. The encoder averages the embeddings of patches of 0.98 s (our choice), whereas
    PANNs embed a whole clip.

    Args:
        path: a `.pth` file that contains a dictionary with the state under "model".

    Raises:
        InputError: if PyTorch is not installed, the checkpoint does not exist, or a key, a shape or
            the front end is not that of CNN14.
    """
    path = os.fspath(path)
    state = _load_state(path)

    def shape(key: str, rank: int) -> tuple[int, ...]:
        if key not in state:
            raise InputError(f"{path}: has no {key}; expected a checkpoint of PANNs' CNN14")
        if state[key].ndim != rank:
            raise InputError(
                f"{path}: {key} has the shape {list(state[key].shape)}; expected {rank} axes"
            )
        return state[key].shape

    fft_length, bands = shape(STFT_REAL, 3)[-1], shape(MEL, 2)[-1]
    embedding_size, width = shape(DENSE, 2)[0], shape(FIRST_CONV, 4)[0]
    sample_rate = round(fft_length / FRAME_SECONDS)
    size = sum(value.nbytes for value in state.values())
    with input_errors(path), no_more_weights_than(size, "bytes of the checkpoint"):
        log_mel = PannsLogMel(sample_rate, bands=bands)
        encoder = Encoder(Cnn14Backbone(embedding_size, width), log_mel)
        encoder.build((None, None))

    bins = fft_length // 2 + 1
    variables = variable_names(encoder.backbone)
    expected = {
        STFT_REAL: (bins, 1, fft_length),
        STFT_IMAGINARY: (bins, 1, fft_length),
        MEL: (bins, bands),
    }
    for key, variable in variables.items():
        expected[key] = tuple(variable.shape[axis] for axis in TO_TORCH[len(variable.shape)])
    for key, wanted in expected.items():
        if shape(key, len(wanted)) != wanted:
            raise InputError(
                f"{path}: {key} has the shape {list(state[key].shape)}; expected {list(wanted)}, "
                "as the other shapes imply"
            )
    for key in state:
        if key not in expected and key not in UNUSED and not key.endswith(".num_batches_tracked"):
            raise InputError(f"{path}: has {key}; expected only the keys of PANNs' CNN14")
    filters = slaney_mel_matrix(bands, bins, sample_rate, log_mel.low_hz, log_mel.high_hz)
    window = np.hanning(fft_length + 1)[:-1]  # equals the kernel of the bin at 0 Hz
    for key, found, computed in (
        (MEL, state[MEL], filters),
        (STFT_REAL, state[STFT_REAL][0, 0], window),
    ):
        if not np.allclose(found, computed, atol=1e-3 * computed.max()):
            raise InputError(
                f"{path}: {key} differs from PANNs' front end at {sample_rate} Hz; "
                f"expected {bands} bands from {log_mel.low_hz:g} to {log_mel.high_hz:g} Hz, "
                "computed from frames with a Hann window"
            )

    for key, variable in variables.items():
        variable.assign(np.transpose(state[key], np.argsort(TO_TORCH[len(variable.shape)])))
    return encoder


def variable_names(backbone: Cnn14Backbone) -> dict[str, keras.Variable]:
    """Every variable of the backbone, by its key in a checkpoint."""
    names = {"fc1.weight": backbone.dense.kernel, "fc1.bias": backbone.dense.bias}
    norms = {"bn0": backbone.band_norm}
    for i, (conv, norm) in enumerate(zip(backbone.convs, backbone.norms, strict=True)):
        block, half = f"conv_block{i // 2 + 1}", i % 2 + 1
        names[f"{block}.conv{half}.weight"] = conv.kernel
        norms[f"{block}.bn{half}"] = norm
    for key, norm in norms.items():
        names[f"{key}.weight"] = norm.gamma
        names[f"{key}.bias"] = norm.beta
        names[f"{key}.running_mean"] = norm.moving_mean
        names[f"{key}.running_var"] = norm.moving_variance
    return names


def _load_state(path: str) -> dict[str, np.ndarray]:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(
            f"{path}: needs PyTorch, which is not installed; expected pip install 'sepssl[panns]'"
        ) from error
    expected = "expected a PyTorch checkpoint of PANNs' CNN14"
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file; {expected}")
    try:
        _require_stored_members(path)
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises many kinds for a damaged or foreign file.
        raise InputError(f"{path}: could not be loaded ({_reason(error)}); {expected}") from error
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
        raise InputError(f'{path}: has no tensors at "model"; {expected}')
    for key, value in state.items():
        # A view that repeats its data could claim any size.
        if value.layout != torch.strided or value.nbytes > value.untyped_storage().nbytes():
            raise InputError(f"{path}: {key} is not a plain tensor; {expected}")
    return {key: value.numpy() for key, value in state.items()}


def _reason(error: Exception) -> str:
    """What is wrong, without PyTorch's advice to load the file unsafely all the same."""
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        return f"holds {found[1]}, which is no tensor" if found else "holds more than tensors"
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]


def _require_stored_members(path: str) -> None:
    """Raises ValueError for a compressed checkpoint, which could expand; PyTorch's are not."""
    if not zipfile.is_zipfile(path):
        return  # the format before PyTorch 1.6
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > os.path.getsize(path):
        raise ValueError(f"it claims {size} bytes, more than the file has")


def _numpy_globals() -> list:
    """Functions that unpickle NumPy's arrays and scalars, under their names in NumPy 1 and 2.

    They occur in the state of the sampler, which PANNs' training saves next to the network's.
    """
    reconstruct: Any = np.empty(0).__reduce__()[0]
    scalar: Any = np.float64(0.0).__reduce__()[0]
    functions = [
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for function in (reconstruct, scalar)
        for core in ("core", "_core")
    ]
    dtypes = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    return [*functions, np.ndarray, np.dtype, *dtypes]
