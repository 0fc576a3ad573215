"""The error of an export, and what an export needs."""

import importlib.util

from sepssl.errors import InputError


class ExportError(InputError):
    """This model cannot be exported, or what was written does not compute what it computes."""


def require_onnx() -> None:
    """Raises InputError unless onnx and onnxruntime are installed."""
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX needs {' and '.join(missing)}; expected the extra 'onnx': "
            "pip install 'sepssl[onnx]'"
        )
