"""Do files written under one TensorFlow and Keras load under others?

python exchange.py write FOLDER     writes models and their exports, and what they compute
python exchange.py read FOLDER      loads all of it and compares, after any other version wrote
"""

import json
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import sepssl
from sepssl import export
from sepssl.export.check import saved_model_outputs
from sepssl.export.processes import Check, check_in_fresh_process
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, LearnedBasis, Separator, STFTBasis
from sepssl.serialization import save_model

CLIPS = {
    name: np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    for name, shape in {"one": [1, 1], "some": [3, 20000]}.items()
}


def models() -> dict:
    keras.utils.set_random_seed(0)
    made = {"encoder": Encoder(SmallBackbone(embedding_size=16, width=4))}
    for name, basis in {"learned": LearnedBasis(32), "stft": STFTBasis()}.items():
        made[name] = Separator(2, basis, TDCN(8, 16, 3, 1))
    for model in made.values():
        model.build()
    return made


def write(folder: pathlib.Path) -> None:
    made = models()
    encoder = made["encoder"]
    for name, model in made.items():
        save_model(model, folder / f"{name}.keras")
        outputs = {clip: np.asarray(model(x)) for clip, x in CLIPS.items()}
        np.savez(folder / f"{name}.npz", **outputs)
    export.save_encoder(encoder, folder / "saved_model" / "encoder")
    export.convert_encoder(encoder, folder / "tflite", precisions=["float32", "float16"])
    export.save_separator(made["stft"], folder / "saved_model" / "stft")
    export.save_hear(encoder, folder / "saved_model" / "hear")
    export.save_scene(made["stft"], encoder, folder / "saved_model" / "scene")
    for name in ("hear", "scene"):
        found = saved_model_outputs(folder / "saved_model" / name, CLIPS)
        arrays = {f"{clip}/{key}": x for clip, ways in found.items() for key, x in ways[0].items()}
        np.savez(folder / f"{name}.npz", **arrays)
    versions = {"keras": keras.__version__, "tensorflow": tf.__version__}
    (folder / "versions.json").write_text(json.dumps(versions))


def read(folder: pathlib.Path) -> None:
    checks = []
    for name in ("encoder", "learned", "stft"):
        with np.load(folder / f"{name}.npz") as stored:
            key = "embedding" if name == "encoder" else "sources"
            expected = {clip: {key: stored[clip]} for clip in stored}
        load = sepssl.load_encoder if name == "encoder" else sepssl.load_separator
        model = load(folder / f"{name}.keras")
        for clip, outputs in expected.items():
            np.testing.assert_allclose(model(CLIPS[clip]), outputs[key], atol=1e-4)
        if name != "learned":
            checks.append(Check(name, CLIPS, expected, folder / "saved_model" / name))
        if name == "encoder":
            for precision, file in (("float32", "encoder"), ("float16", "encoder_float16")):
                tflite = folder / "tflite" / f"{file}.tflite"
                checks.append(Check(file, CLIPS, expected, None, tflite, precision=precision))
    for name in ("hear", "scene"):
        expected = {clip: {} for clip in CLIPS}
        with np.load(folder / f"{name}.npz") as stored:
            for path, array in stored.items():
                clip, key = path.split("/")
                expected[clip][key] = array
        checks.append(Check(name, CLIPS, expected, folder / "saved_model" / name))
    check_in_fresh_process(checks)
    written = json.loads((folder / "versions.json").read_text())
    print(
        f"written with {written}, read with Keras {keras.__version__}, TensorFlow {tf.__version__}"
    )


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](pathlib.Path(sys.argv[2]))
