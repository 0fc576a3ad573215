"""SavedModel to TF Lite: `python conversion.py SAVED_MODEL OUTPUT`, for a process of its own."""

import pathlib
import sys


def convert(saved_model: str, output: str) -> None:
    """Writes the signature `serving_default` as float32 TF Lite, builtin operators only."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        saved_model, signature_keys=["serving_default"]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    pathlib.Path(output).write_bytes(converter.convert())


if __name__ == "__main__":
    convert(*sys.argv[1:])
