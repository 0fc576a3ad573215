"""An encoder as modules with the interfaces of benchmarks: HEAR, X-ARES and MTEB.

References: Turian et al., HEAR: Holistic Evaluation of Audio Representations (2022); Zhang et al.,
X-ARES: A Comprehensive Framework for Assessing Audio Encoder Performance (2025); Muennighoff et
al., MTEB: Massive Text Embedding Benchmark (2023), which has tasks of audio by now.
"""

import dataclasses
import os

from sepssl.errors import InputError
from sepssl.export.card import describe_encoder
from sepssl.export.clips import encoder_clips
from sepssl.export.graphs import encoder_graph, patches_signature, require_encoder
from sepssl.export.origin import Origin
from sepssl.export.saved_model import save_graph
from sepssl.representation.encoder import Encoder

SAMPLE_RATES = (16000, 22050, 32000, 44100, 48000)
TIMESTAMP_SECONDS = 0.05  # at most


def save_hear(encoder: Encoder, directory: str | os.PathLike, origin: Origin | None = None) -> dict:
    """Writes an encoder as a module that HEAR's tools import, `sepssl_hear`.

    The folder is the SavedModel of `save_encoder` with one more signature, `timestamps`, like
    `patches` with a patch every 50 ms or less, and `sepssl_hear.py`, which has `load_model`,
    `get_scene_embeddings` and `get_timestamp_embeddings` and needs TensorFlow only. Beside it lie
    `sepssl_xares.py` and `sepssl_mteb.py`, which put it behind the interfaces of X-ARES and MTEB.

    Args, Returns, Raises: as of `save_encoder`; InputError also if the encoder's sample rate is
    none of HEAR's.
    """
    require_encoder(encoder)
    if encoder.sample_rate not in SAMPLE_RATES:
        raise InputError(
            f"encoder: is for {encoder.sample_rate} Hz; expected a sample rate of HEAR's, "
            f"{', '.join(map(str, SAMPLE_RATES))} Hz"
        )
    log_mel = encoder.log_mel
    hop_frames = max(int(TIMESTAMP_SECONDS * encoder.sample_rate) // log_mel.frame_hop, 1)
    # Each has its own level: how long a recording is, or where it is cut, makes no difference.
    dense = encoder.of_windows(patch_hop_frames=hop_frames, cover_end=False)
    graph = encoder_graph(encoder)
    signatures = graph.signatures | {"timestamps": patches_signature(dense)}
    facts = {
        "timestamps": {
            "patch_samples": log_mel.patch_samples,
            "hop_samples": hop_frames * log_mel.frame_hop,
        }
    }

    def hear(waveform, training):
        return {
            "embedding": encoder(waveform, training=training),
            "timestamps": dense.patch_embeddings(waveform, training=training),
        }

    return save_graph(
        dataclasses.replace(graph, signatures=signatures),
        hear,
        directory,
        encoder_clips(encoder),
        describe_encoder(encoder) | facts,
        origin,
        modules=("sepssl_hear.py", "sepssl_xares.py", "sepssl_mteb.py"),
        file_format="hear",
    )
