"""How fast exports are: YAMNet's network on one patch of 0.96 s, waveform in, embedding out.

    pip install -e '.[benchmark,tflite]'
    python tests/benchmarks/export.py [inference precisions load]

How it is measured, `contest.py` says. Weights are random.
"""

import functools
import pathlib
import tempfile

from contest import main, noise, tensorflow
from representation import torch_log_mel_of, torch_network

ROUNDS = {"inference": 30, "precisions": 30, "load": 7}
RUNS = 20  # in a round: one takes a few milliseconds


def encoder():
    from sepssl.representation import Encoder
    from sepssl.representation.build import BACKBONES

    made = Encoder(BACKBONES["mobilenet_v1"]())
    made.build()
    return made


def waveform():
    return 0.1 * noise(1, 15600)


def written() -> str:
    from sepssl.export import save_encoder

    folder = tempfile.mkdtemp()
    save_encoder(encoder(), folder)
    return folder


def saved_model():
    tf = tensorflow()
    loaded = tf.saved_model.load(written())
    x = tf.constant(waveform())
    return lambda: [loaded(x).numpy() for _ in range(RUNS)]


def tflite(precision="float32", input="waveform"):
    from ai_edge_litert.interpreter import Interpreter

    from sepssl.export import convert_encoder

    folder = pathlib.Path(tempfile.mkdtemp())
    convert_encoder(
        encoder(),
        folder,
        precisions=[precision],
        inputs=[input],
        calibration=[waveform()[0]],
        accept_errors=True,
    )
    (file,) = folder.glob("*.tflite")
    run = Interpreter(str(file), num_threads=1).get_signature_runner("serving_default")
    x = waveform()
    return lambda: [run(waveform=x)["embedding"] for _ in range(RUNS)]


def torch_encoder(channels_last):
    torch, network = torch_network("mobilenet_v1")
    log_mel = torch_log_mel_of()
    network.eval()
    x = torch.nn.functional.pad(torch.from_numpy(waveform()), (0, 112))  # its frames are of 512
    if channels_last:
        network = network.to(memory_format=torch.channels_last)

    def run():
        with torch.inference_mode():
            return [network(log_mel(x)) for _ in range(RUNS)]

    return run


def load():
    tf = tensorflow()
    folder = written()
    return lambda: tf.saved_model.load(folder)


CONTESTANTS = {
    "inference": {
        "SavedModel": saved_model,
        "TF Lite": tflite,
        "torch": lambda: torch_encoder(False),
        "torch channels_last": lambda: torch_encoder(True),
    },
    "precisions": {
        f"{precision}, {input}": functools.partial(tflite, precision, input)
        for input in ("waveform", "patch")
        for precision in ("float32", "float16", "dynamic", "int8")
    },
    "load": {"tf.saved_model.load": load},
}


def base(item: str, name: str) -> str:
    bases = {"inference": "SavedModel", "precisions": "float32, waveform"}
    return bases.get(item, "tf.saved_model.load")


def remarks(item: str, seconds: dict[str, float]) -> list[str]:
    if item == "load":
        return [sizes()]
    return [f"{RUNS} runs a round: {1e3 / RUNS * min(seconds.values()):.1f} ms the fastest of them"]


def sizes() -> str:
    from sepssl.export import convert_encoder, save_encoder

    model = encoder()
    weights = 4 * model.count_params()
    shares = {}
    for name, write in {"SavedModel": save_encoder, "TF Lite": convert_encoder}.items():
        folder = pathlib.Path(tempfile.mkdtemp())
        write(model, folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shares[name] = f"{size / weights - 1:+.1%}"
    return f"size against the weights' {weights / 1e6:.1f} MB: {shares}"


if __name__ == "__main__":
    main(__file__, CONTESTANTS, ROUNDS, base, remarks)
