"""Reports sounds like an example, from the microphone or a recording, without TensorFlow.

python listen.py --model=encoder.tflite --example=call.wav [--input=recording.wav] [--threshold=0.9]
"""

import argparse

import numpy as np
import soundfile
from ai_edge_litert.interpreter import Interpreter

RATE = 16000  # Hz, the encoder's


def blocks(path):
    """Half seconds, float32 [samples], of a file or else of the microphone."""
    if path:
        if (rate := soundfile.info(path).samplerate) != RATE:
            raise SystemExit(f"{path}: {rate} Hz; expected {RATE} Hz")
        settings = {"dtype": "float32", "always_2d": True, "fill_value": 0}
        for block in soundfile.blocks(path, RATE // 2, **settings):
            yield block.mean(axis=1)
        return
    import sounddevice

    with sounddevice.InputStream(RATE, channels=1, dtype="float32") as stream:
        while True:
            yield stream.read(RATE // 2)[0][:, 0]


def embed(waveform):
    """[samples] -> [size], of length 1, so that products are cosines."""
    vector = encode(waveform=waveform[None])["embedding"][0]
    return vector / max(np.linalg.norm(vector), 1e-12)


def sounds(waveform):
    """Whether it is louder than -120 dBFS; silence is like any sound that is mostly silence."""
    return np.sqrt(np.mean(np.square(waveform, dtype=np.float64))) > 1e-6


parser = argparse.ArgumentParser(usage=__doc__)
for name in ("--model", "--example"):
    parser.add_argument(name, required=True)
parser.add_argument("--input")
parser.add_argument("--threshold", type=float, default=0.9)
flags = parser.parse_args()
try:
    encode = Interpreter(flags.model).get_signature_runner("serving_default")
except ValueError as error:
    raise SystemExit(f"{flags.model}: {error}; expected sepssl-export's encoder.tflite") from error
heard = [block for block in blocks(flags.example) if sounds(block)]
if not heard:
    raise SystemExit(f"{flags.example}: is silent; expected a sound to listen for")
example, second = embed(np.concatenate(heard)), np.zeros(RATE, np.float32)
for count, block in enumerate(blocks(flags.input)):
    second = np.concatenate([second[RATE // 2 :], block])  # the last one
    if count and sounds(second) and (similarity := embed(second) @ example) >= flags.threshold:
        print(f"{(count - 1) / 2:.1f} s: {similarity:.3f}", flush=True)
