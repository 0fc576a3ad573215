"""Encoders and separators as files that other programs load: SavedModel, TF Lite, ONNX,
HEAR, and all of them in a folder for a hub.

The names are resolved on first use, so that `python -m sepssl.export.check` can look at an export
in a process that never imports the models it came from.
"""

import importlib

_HOMES = {
    "ExportError": "sepssl.export.errors",
    "check_exports": "sepssl.export.processes",
    "convert_classifier": "sepssl.export.classifier",
    "convert_encoder": "sepssl.export.tflite",
    "convert_separator": "sepssl.export.tflite",
    "origin_of": "sepssl.export.origin",
    "save_classifier": "sepssl.export.classifier",
    "save_encoder": "sepssl.export.saved_model",
    "save_hear": "sepssl.export.hear",
    "save_hub_classifier": "sepssl.export.hub",
    "save_hub_encoder": "sepssl.export.hub",
    "save_hub_separator": "sepssl.export.hub",
    "save_onnx_classifier": "sepssl.export.onnx_model",
    "save_onnx_encoder": "sepssl.export.onnx_model",
    "save_onnx_separator": "sepssl.export.onnx_model",
    "save_scene": "sepssl.export.saved_model",
    "save_separator": "sepssl.export.saved_model",
}

__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
