"""How loud a signal is that passes in blocks."""

import numpy as np


class Level:
    """Peak and mean power of a signal that passes in blocks.

    Args:
        edge: samples at the start and the end that do not count for `inner_peak`.
    """

    def __init__(self, edge: int = 0):
        self.peak = 0.0
        self._edge = edge
        self._inner_peak = 0.0
        self._held = np.zeros(0, np.float32)  # the end, as far as is known
        self._energy = 0.0
        self.samples = 0

    def add(self, block: np.ndarray) -> None:
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
        self._energy += float(np.sum(np.square(block, dtype=np.float64)))
        inner = np.concatenate([self._held, block[max(0, self._edge - self.samples) :]])
        self.samples += len(block)
        end = max(0, len(inner) - self._edge)
        self._inner_peak = max(self._inner_peak, float(np.abs(inner[:end]).max(initial=0.0)))
        self._held = inner[end:]

    @property
    def inner_peak(self) -> float:
        """The peak but for the edges; with them where there is little else."""
        return self._inner_peak if self.samples > 3 * self._edge else self.peak

    @property
    def power(self) -> float:
        return self._energy / max(self.samples, 1)
