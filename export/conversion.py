"""SavedModel to TF Lite, and float32 TF Lite to smaller: a script, for a process of its own.

    python conversion.py convert JOBS.json
    python conversion.py quantize JOBS.json

A file of jobs holds a list of objects whose keys are the arguments of the function below. Before
each job a line of JSON is printed, so that a caller knows at which one the process ended.
"""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any


def convert(saved_model: str, output: str) -> None:
    """Writes the signature `serving_default` as float32 TF Lite, builtin operators only."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        saved_model, signature_keys=["serving_default"]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    pathlib.Path(output).write_bytes(converter.convert())


def quantize(file: str, output: str, precision: str, parts: str, calibration: str = "") -> None:
    """Quantizes a part of a TF Lite file.

    Args:
        file: float32 TF Lite.
        output: the file to write.
        precision: `float16`, `dynamic` or `int8`.
        parts: regular expression for the names of what is quantized.
        calibration: for `int8`, an `.npz` file of clips [clips, ...] under the input's name.

    Not TensorFlow's own quantization, which takes the front end along: a window and mel filters of
    8 bits, magnitudes of 8 bits before a logarithm. Of a trained encoder that left cosines of 0.95
    (dynamic) and 0.45 (int8) where this leaves 0.9999 and 0.99.
    """
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import (
        ComputePrecision,
        OpQuantizationConfig,
        TensorDataType,
        TensorQuantizationConfig,
        TFLOperationName,
    )

    everything = TFLOperationName.ALL_SUPPORTED
    quantization = quantizer.Quantizer(bytearray(pathlib.Path(file).read_bytes()))
    calibrated = None
    if precision == "float16":
        half = TensorQuantizationConfig(num_bits=16, dtype=TensorDataType.FLOAT)
        half = OpQuantizationConfig(
            weight_tensor_config=half,
            compute_precision=ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        for operation in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            quantization.update_quantization_recipe(
                parts, TFLOperationName[operation], half, AlgorithmName.FLOAT_CASTING
            )
    elif precision == "dynamic":
        quantization.add_dynamic_config(parts, everything, num_bits=8)
    else:
        quantization.add_static_config(parts, everything, 8, 8)
        with np.load(calibration, allow_pickle=False) as stored:
            ((input_name, clips),) = stored.items()
        if input_name == "log_mel":  # else the front end comes first
            for end in ("INPUT", "OUTPUT"):
                quantization.add_static_config(".*", TFLOperationName[end], 8, 8)
        calibrated = _calibrated(quantization, input_name, clips)
    quantized = bytes(quantization.quantize(calibrated).quantized_model)
    types = {t["dtype"] for t in Interpreter(model_content=quantized).get_tensor_details()}
    if not types & {np.int8, np.float16}:
        sys.exit(f"nothing was quantized; expected operations under names like {parts}")
    pathlib.Path(output).write_bytes(quantized)


def _calibrated(quantization, input_name, clips):
    """Tensor -> its range over all clips, where the library's own is a moving average."""
    import numpy as np

    ranges: dict[str, dict[str, Any]] = {}
    for clip in clips:
        found = quantization.calibrate({"serving_default": [{input_name: clip[None]}]})
        for tensor, values in found.items():
            seen = ranges.setdefault(tensor, dict(values))
            for key, widen in (("min", np.minimum), ("max", np.maximum)):
                if key in values:
                    seen[key] = widen(seen[key], values[key])
    return ranges


def main(task: str, jobs: str) -> None:
    tasks: dict[str, Callable[..., None]] = {"convert": convert, "quantize": quantize}
    for job in json.loads(pathlib.Path(jobs).read_text()):
        print(json.dumps(job), flush=True)
        tasks[task](**job)


if __name__ == "__main__":
    main(*sys.argv[1:])
