"""Encoders as files that other programs load: SavedModel and TF Lite.

The names are resolved on first use, so that `python -m sepssl.export.check` can look at an export
in a process that never imports the models it came from.
"""

import importlib

_HOMES = {
    "ExportError": "sepssl.export.errors",
    "check_exports": "sepssl.export.check",
    "convert_encoder": "sepssl.export.tflite",
    "save_encoder": "sepssl.export.saved_model",
}

__all__ = ["ExportError", "check_exports", "convert_encoder", "save_encoder"]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
