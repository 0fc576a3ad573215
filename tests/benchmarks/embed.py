"""CPU time and memory of embedding recordings, beside those of decoder and encoder alone.

    python tests/benchmarks/embed.py FOLDER [separator]

FOLDER holds long recordings. Encoders and the separator (4 channels, as `separator_small` has it)
have random weights. Prints a row for the `small` encoder, for `mobilenet_v1` (as large as YAMNet)
and, if asked for, for `small` with rows of channels.
"""

import pathlib
import resource
import sys
import tempfile
import time

import keras
import numpy as np

import sepssl
from sepssl.audio.streaming import stream_audio
from sepssl.pipelines.embed import embed_recordings
from sepssl.representation.windows import BATCH


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measured(work):
    before, began = cpu(), time.monotonic()
    work()
    return cpu() - before, time.monotonic() - began


def decode(folder, rate):
    for path in sorted(folder.iterdir()):
        for _ in stream_audio(path, rate):
            pass


def encode(encoder, seconds):
    """The encoder's patches of as much noise, in the batches that are fastest."""
    log_mel = encoder.log_mel
    hop = log_mel.patch_hop_samples
    samples = (BATCH - 1) * hop + log_mel.patch_samples
    noise = 0.1 * np.random.default_rng(0).normal(size=(1, samples)).astype(np.float32)
    for _ in range(round(seconds * encoder.sample_rate / (BATCH * hop))):
        encoder.compiled_patch_embeddings(noise).numpy()


def main():
    folder = pathlib.Path(sys.argv[1])
    keras.utils.set_random_seed(0)
    tdcn = sepssl.TDCN(64, 128, dilations_per_repeat=6, repeats=2)
    separator = sepssl.Separator(4, sepssl.STFTBasis(), tdcn, "uniform")
    cases = [
        ("small", sepssl.Encoder(), None),
        ("mobilenet_v1", sepssl.Encoder(sepssl.MobileNetV1Backbone()), None),
    ]
    if sys.argv[2:] == ["separator"]:
        cases.append(("small, 4 channels", cases[0][1], separator))
    print("encoder            hours  decoder  encoder      all  ratio  hours/min  peak MB")
    for name, encoder, channels in cases:
        encoder.build((None, None))
        clips = sepssl.open_clips(folder, encoder.sample_rate)
        seconds = sum(clips.num_samples(i) for i in range(len(clips))) / clips.sample_rate
        encode(encoder, 60)  # traces the graph
        decoding, _ = measured(lambda rate=encoder.sample_rate: decode(folder, rate))
        encoding, _ = measured(lambda encoder=encoder, seconds=seconds: encode(encoder, seconds))
        with tempfile.TemporaryDirectory() as output:
            total, wall = measured(
                lambda encoder=encoder, clips=clips, channels=channels, output=output: (
                    embed_recordings(encoder, clips, f"{output}/index", channels, verbose=False)
                )
            )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ratio = "" if channels else f"{total / (decoding + encoding):.2f}"
        print(
            f"{name:17} {seconds / 3600:6.2f} {decoding:8.1f} {encoding:8.1f} {total:8.1f} "
            f"{ratio:>6} {seconds / 60 / wall:10.2f} {peak:8.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
