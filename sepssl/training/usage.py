"""What the steps of a training took: time, memory, and how busy they kept the processor."""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf

T = TypeVar("T")
PREFIX = "usage/"  # of the names in a run's metrics


class Usage:
    """Adds up what steps take, without what lies between them, as evaluations do."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Forgets what has been counted."""
        self._steps = 0
        self._waited = 0.0  # s for batches
        self._spent = np.zeros(3)  # s: by the clock, of the CPU for the program and for the kernel

    def batches(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time until one is there counts."""
        iterator = iter(batches)
        while True:
            before = _clocks()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            took = _clocks() - before
            self._waited += took[0]
            self._spent += took
            yield batch

    def step(self, make: Callable[[], None]) -> None:
        """Makes a step, which counts."""
        before = _clocks()
        make()
        self._spent += _clocks() - before
        self._steps += 1

    def report(
        self, examples: int, flop: float = math.nan, peak: float = math.nan
    ) -> dict[str, float]:
        """What the steps took, {} if there were none.

        Args:
            examples: in a step.
            flop: floating-point operations of a step.
            peak: FLOP/s of matrix products, see `gemm_peak`.

        Returns:
            "usage/examples_per_second"; "usage/waiting_for_data" and "usage/kernel", shares of the
            time and of the CPU time, 0 to 1; "usage/memory_gb", the peak of the process, with what
            came before training, and "usage/gpu_memory_gb", of the first GPU, if there is one; if
            `flop` is known, "usage/gflop_per_second" and "usage/share_of_gemm_peak".
        """
        if not self._steps:
            return {}
        wall, user, kernel = self._spent.tolist()
        found = {
            "examples_per_second": examples * self._steps / wall,
            "waiting_for_data": self._waited / wall,
            "kernel": kernel / max(user + kernel, 1e-9),
            "memory_gb": peak_memory() / 2**30,
        }
        if tf.config.list_logical_devices("GPU"):
            found["gpu_memory_gb"] = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30
        if math.isfinite(flop):
            found["gflop_per_second"] = flop * self._steps / wall / 1e9
            found["share_of_gemm_peak"] = flop * self._steps / wall / peak
        return {PREFIX + name: value for name, value in found.items()}


def describe_usage(metrics: dict[str, float]) -> str:
    """The report in a line, "" if `metrics` hold none."""
    found = {k.removeprefix(PREFIX): v for k, v in metrics.items() if k.startswith(PREFIX)}
    if not found:
        return ""
    parts = [
        f"{found['examples_per_second']:.1f} examples/s",
        f"{found['waiting_for_data']:.1%} of the time waiting for data",
        f"{found['kernel']:.1%} of the CPU time in the kernel",
        f"{found['memory_gb']:.1f} GB of memory",
    ]
    if "gpu_memory_gb" in found:
        parts.append(f"{found['gpu_memory_gb']:.1f} GB on the GPU")
    if "gflop_per_second" in found:
        share = found["share_of_gemm_peak"]
        parts.append(f"{found['gflop_per_second']:.0f} GFLOP/s")
        parts[-1] += f" ({share:.0%} of matrix products')" if math.isfinite(share) else ""
    return ", ".join(parts)


def separation_flop(separator: keras.Model, samples: int) -> float:
    """Floating-point operations of separating one mixture; those of the STFT are left out."""
    frames = math.ceil(samples / separator.basis.hop)
    each = (
        math.prod(v.shape) * (separator.num_sources if "/decoder/" in v.path else 1)
        for v in separator.variables
        if v.path.endswith("kernel")
    )
    return 2.0 * frames * sum(each)


def patch_flop(encoder: keras.Model) -> float:
    """Floating-point operations of the convolutions and dense layers that embed one patch."""
    shape = (1, encoder.log_mel.patch_frames, encoder.log_mel.bands)
    call = tf.function(lambda x: encoder.backbone(x, training=False), autograph=False)
    total = 0
    for operation in call.get_concrete_function(tf.TensorSpec(shape)).graph.get_operations():
        if operation.type in ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2"):
            kernel = operation.inputs[1].shape
            # What each output is a sum of.
            terms = {"Conv2D": kernel[:-1], "DepthwiseConv2dNative": kernel[:2]}
            summed = terms.get(operation.type, operation.inputs[0].shape[-1:])
            total += 2 * math.prod(operation.outputs[0].shape) * math.prod(summed)
    return float(total)


def gemm_peak(dtype: str) -> float:
    """FLOP/s of matrix products in `dtype` on this process's CPU, or on all of its GPUs.

    One GPU is measured; the others count as much.
    """
    gpus = len(tf.config.list_logical_devices("GPU"))
    rows = 8192 if gpus else 1024
    x = tf.ones([rows, rows], dtype)
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(x, x)), autograph=False)
    times = []
    for _ in range(6):  # the first traces
        start = time.perf_counter()
        product().numpy()
        times.append(time.perf_counter() - start)
    return 2.0 * rows**3 / min(times) * max(gpus, 1)


def peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _clocks() -> np.ndarray:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([time.perf_counter(), used.ru_utime, used.ru_stime])
