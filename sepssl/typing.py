"""What the signatures of layers and losses mean by a tensor and by its shape."""

from collections.abc import Sequence
from typing import Any, TypeAlias

# A tensor of Keras's backend, a symbolic `keras.KerasTensor` or a NumPy array; docstrings say the
# shapes. No type checker tells one backend's tensors from another's.
Tensor: TypeAlias = Any

# Of a tensor; None for a size that is not known.
Shape: TypeAlias = Sequence[int | None]
