"""TensorFlow graphs as ONNX models, operation by operation.

Our own rather than tf2onnx's translation, which refuses Fourier transforms and rounds quotients of
negative integers the other way. All that is needed of `onnx` is `helper` and `numpy_helper`.

Operators are those of opset 17 (2022). Integers are int64 throughout, as ONNX wants shapes. A real
Fourier transform is a product with a matrix of cosines and one of sines. Convolutions stand between
transpositions, since ONNX has channels in front; onnxruntime moves these out of the way.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from sepssl.export.errors import ExportError

OPSET = 17
IR_VERSION = 8  # of the same release as the opset
ON_CPU = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
END = np.iinfo(np.int64).max  # past the end of every axis

# TensorFlow's operation -> ONNX's operator of the same inputs.
_SAME = {
    "Abs": "Abs",
    "Add": "Add",
    "AddV2": "Add",
    "BiasAdd": "Add",
    "Ceil": "Ceil",
    "Equal": "Equal",
    "Erf": "Erf",
    "Exp": "Exp",
    "Floor": "Floor",
    "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual",
    "Less": "Less",
    "LessEqual": "LessOrEqual",
    "Log": "Log",
    "LogicalAnd": "And",
    "LogicalNot": "Not",
    "LogicalOr": "Or",
    "Maximum": "Max",
    "Minimum": "Min",
    "Mul": "Mul",
    "Neg": "Neg",
    "Pow": "Pow",
    "Range": "Range",
    "RealDiv": "Div",
    "Relu": "Relu",
    "SelectV2": "Where",
    "Shape": "Shape",
    "Sigmoid": "Sigmoid",
    "Softmax": "Softmax",
    "Softplus": "Softplus",
    "Sqrt": "Sqrt",
    "Sub": "Sub",
    "Tanh": "Tanh",
}
_UNCHANGED = {"Identity", "IdentityN", "StopGradient", "PreventGradient", "Snapshot"}
_REDUCTIONS = {
    "Max": "ReduceMax",
    "Mean": "ReduceMean",
    "Min": "ReduceMin",
    "Prod": "ReduceProd",
    "Sum": "ReduceSum",
}
_TYPES = {
    tf.bool: TensorProto.BOOL,
    tf.float32: TensorProto.FLOAT,
    tf.int32: TensorProto.INT64,
    tf.int64: TensorProto.INT64,
}

# The name of an ONNX value; of complex numbers the names of both parts.
Value = Any
Sizes = Sequence[int | str]


def translate(
    function: Any, input_shape: Sizes, output_shapes: dict[str, Sizes], name: str
) -> onnx.ModelProto:
    """A TensorFlow function as an ONNX model.

    Args:
        function: tf.function with an input signature of one float32 tensor, which returns a dict
            of float32 tensors.
        input_shape: sizes of the input; names of those known only at run time.
        output_shapes: the same of every output.
        name: of the graph.

    Raises:
        ExportError: if an operation of the function has no translation.
    """
    traced = function.get_concrete_function()
    frozen = convert_variables_to_constants_v2(traced)
    (placeholder,) = frozen.inputs
    input_name = placeholder.op.name
    graph = _Graph()
    graph.values[placeholder.name] = input_name
    varying, constants = _partition(frozen.graph)
    for tensor_name, array in constants.items():
        graph.values[tensor_name] = graph.constant(array)
    for operation in varying:
        graph.add(operation)
    outputs = sorted(traced.structured_outputs)  # TensorFlow's order
    for output, tensor in zip(outputs, frozen.outputs, strict=True):
        graph.nodes.append(helper.make_node("Identity", [graph.value(tensor)], [output]))
    model = helper.make_model(
        graph.finish(
            name,
            helper.make_tensor_value_info(input_name, TensorProto.FLOAT, input_shape),
            [
                helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
                for output, shape in output_shapes.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    model.ir_version = IR_VERSION
    return model


def _partition(graph: tf.Graph) -> tuple[list[tf.Operation], dict[str, np.ndarray]]:
    """Operations that depend on the input, and what they use of all others."""
    varying = []
    names = set()
    used: dict[str, tf.Tensor] = {}
    for operation in graph.get_operations():
        if operation.type in ("Placeholder", "NoOp"):
            names.add(operation.name)
        elif any(tensor.op.name in names for tensor in operation.inputs):
            names.add(operation.name)
            varying.append(operation)
    for operation in varying:
        used |= {x.name: x for x in operation.inputs if x.op.name not in names}
    with tf.compat.v1.Session(graph=graph, config=ON_CPU) as session:
        return varying, session.run(used)


class _Graph:
    """An ONNX graph as it grows.

    Attributes:
        nodes: in an order in which they can be run.
        arrays: name -> constant.
        values: name of a TensorFlow tensor -> its value.
    """

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.values: dict[str, Value] = {}
        self._constants: dict[tuple, str] = {}
        self._scope = ""

    def add(self, operation: tf.Operation) -> None:
        """Adds what computes an operation's outputs."""
        self._scope = operation.name
        kind = operation.type
        if kind in _UNCHANGED:
            values = [self.value(tensor) for tensor in operation.inputs]
        elif kind in _SAME:
            values = self.node(_SAME[kind], *map(self.value, operation.inputs))
        elif kind in _REDUCTIONS:
            values = self._reduced(operation)
        elif kind in _TRANSLATIONS:
            values = _TRANSLATIONS[kind](self, operation)
        else:
            raise ExportError(
                f"model: its operation '{operation.name}' is a {kind}, which has no translation to "
                "ONNX; expected a network of convolutions, dense layers, poolings, norms and usual "
                "activations"
            )
        values = values if isinstance(values, list) else [values]
        for tensor, value in zip(operation.outputs, values, strict=True):
            self.values[tensor.name] = value

    def value(self, tensor: tf.Tensor) -> Value:
        return self.values[tensor.name]

    def static(self, tensor: tf.Tensor, operation: tf.Operation) -> np.ndarray:
        """An input that ONNX needs to know when the model is written.

        Raises:
            ExportError: if it depends on the model's input.
        """
        value = self.value(tensor)
        if value not in self.arrays:
            raise ExportError(
                f"model: '{tensor.name}' of its operation '{operation.name}' ({operation.type}) is "
                "known only when it runs; ONNX expects a constant"
            )
        return self.arrays[value]

    def node(self, operator: str, *inputs: str, outputs: int = 1, **attributes) -> Value:
        """Adds a node; returns the name of its output, or of several a list."""
        if not all(isinstance(name, str) for name in inputs):
            raise ExportError(
                f"model: its operation '{self._scope}' takes complex numbers; expected it to take "
                "their real and imaginary parts, since ONNX has real numbers only"
            )
        number = len(self.nodes)
        names = [f"{number}.{i}" for i in range(outputs)]
        self.nodes.append(
            helper.make_node(operator, inputs, names, f"{self._scope}:{number}", **attributes)
        )
        return names if outputs > 1 else names[0]

    def constant(self, value) -> str:
        array = np.asarray(value)
        if np.issubdtype(array.dtype, np.integer):
            array = array.astype(np.int64)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = name = f"constant.{len(self._constants)}"
            self.arrays[name] = array
        return self._constants[key]

    def transposed(self, value: str, axes: Sequence[int]) -> str:
        if value in self.arrays:
            return self.constant(np.transpose(self.arrays[value], axes))
        return self.node("Transpose", value, perm=axes)

    def reshaped(self, value: str, shape: Sequence[int]) -> str:
        if value in self.arrays:
            return self.constant(np.reshape(self.arrays[value], shape))
        return self.node("Reshape", value, self.constant(shape))

    def _reduced(self, operation):
        x, axes = operation.inputs
        value, axes = self.value(x), np.ravel(self.static(axes, operation))
        operator, keep = _REDUCTIONS[operation.type], int(operation.get_attr("keep_dims"))
        if not len(axes):
            return value
        if operator == "ReduceSum":  # the one of them whose axes are an input in this opset
            return self.node(operator, value, self.constant(axes), keepdims=keep)
        return self.node(operator, value, axes=axes.tolist(), keepdims=keep)

    def finish(self, name, input_info, output_infos) -> onnx.GraphProto:
        """The graph without what no output depends on."""
        needed = {info.name for info in output_infos}
        nodes = []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                nodes.append(node)
                needed |= set(node.input)
        constants = [numpy_helper.from_array(x, k) for k, x in self.arrays.items() if k in needed]
        return helper.make_graph(nodes[::-1], name, [input_info], output_infos, constants)


def _rank(tensor: tf.Tensor) -> int:
    if tensor.shape.rank is None:
        raise ExportError(f"model: the number of axes of '{tensor.name}' is not known")
    return tensor.shape.rank


# Sizes and places.


def _pack(graph, operation):
    axis = operation.get_attr("axis")
    axis += _rank(operation.outputs[0]) if axis < 0 else 0
    parts = [
        graph.node("Unsqueeze", graph.value(x), graph.constant([axis])) for x in operation.inputs
    ]
    return graph.node("Concat", *parts, axis=axis)


def _unpack(graph, operation):
    (x,) = operation.inputs
    axis = operation.get_attr("axis")
    return [
        graph.node("Gather", graph.value(x), graph.constant(i), axis=axis)
        for i in range(operation.get_attr("num"))
    ]


def _concatenate(graph, operation):
    *parts, axis = operation.inputs
    return graph.node("Concat", *map(graph.value, parts), axis=int(graph.static(axis, operation)))


def _split(graph, operation):
    x, sizes, axis = operation.inputs
    count = operation.get_attr("num_split")
    axis = int(graph.static(axis, operation))
    if count == 1:
        return [graph.value(x)]
    return graph.node("Split", graph.value(x), graph.value(sizes), axis=axis, outputs=count)


def _gather(graph, operation):
    x, indices, axis = operation.inputs
    if operation.get_attr("batch_dims"):
        raise ExportError(f"model: '{operation.name}' gathers by batch, which ONNX cannot")
    axis = int(graph.static(axis, operation))
    return graph.node("Gather", graph.value(x), graph.value(indices), axis=axis)


def _reshape(graph, operation):
    x, shape = operation.inputs
    # Without `allowzero`, a size of 0 would stand for that of the input's axis.
    return graph.node("Reshape", graph.value(x), graph.value(shape), allowzero=1)


def _expand_dims(graph, operation):
    x, axis = operation.inputs
    axis = np.ravel(graph.static(axis, operation))
    return graph.node("Unsqueeze", graph.value(x), graph.constant(axis))


def _squeeze(graph, operation):
    (x,) = operation.inputs
    axes = operation.get_attr("squeeze_dims")
    return graph.node("Squeeze", graph.value(x), *([graph.constant(list(axes))] if axes else []))


def _transpose(graph, operation):
    x, axes = operation.inputs
    return graph.transposed(graph.value(x), [int(axis) for axis in graph.static(axes, operation)])


def _fill(graph, operation):
    shape, x = operation.inputs
    return graph.node("Expand", graph.value(x), graph.value(shape))


def _broadcast(graph, operation):
    x, shape = operation.inputs
    return graph.node("Expand", graph.value(x), graph.value(shape))


def _like(number):
    def translation(graph, operation):
        (x,) = operation.inputs
        value = graph.constant(np.asarray(number, x.dtype.as_numpy_dtype))
        return graph.node("Expand", value, graph.node("Shape", graph.value(x)))

    return translation


def _pad(graph, operation):
    x, paddings, *value = operation.inputs
    # [[before, after], ...] -> all of before, then all of after
    order = graph.reshaped(graph.transposed(graph.value(paddings), [1, 0]), [-1])
    return graph.node("Pad", graph.value(x), order, *map(graph.value, value))


def _slice(graph, operation):
    x, begin, size = map(graph.value, operation.inputs)
    end = graph.node("Add", begin, size)
    to_the_end = graph.node("Equal", size, graph.constant(-1))
    end = graph.node("Where", to_the_end, graph.constant(END), end)
    return graph.node("Slice", x, begin, end)


def _strided_slice(graph, operation):
    x, begin, end, strides = operation.inputs
    masks = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    begins, ends, whole, new, single = (operation.get_attr(f"{name}_mask") for name in masks)
    strides = graph.static(strides, operation).tolist()
    axis = at = 0  # of the input, of the output
    parts, steps, squeezed, unsqueezed = [], [], [], []  # (axis, begin, end), stride

    def entry(tensor, i):
        return graph.reshaped(
            graph.node("Gather", graph.value(tensor), graph.constant(i), axis=0), [1]
        )

    for i, stride in enumerate(strides):
        if whole >> i & 1:
            rest = sum(not new >> j & 1 for j in range(i + 1, len(strides)))
            at += _rank(x) - rest - axis
            axis = _rank(x) - rest
            continue
        if new >> i & 1:
            unsqueezed.append(at)
            at += 1
            continue
        first = entry(begin, i)
        if single >> i & 1:
            # The index -1 ends at the end of the axis, not at 0.
            last = graph.node("Add", first, graph.constant([1]))
            from_end = graph.node("Equal", last, graph.constant([0]))
            parts.append((axis, first, graph.node("Where", from_end, graph.constant([END]), last)))
            squeezed.append(axis)
            stride = 1
        else:
            if begins >> i & 1:
                first = graph.constant([0 if stride > 0 else END])
            last = entry(end, i)
            if ends >> i & 1:
                last = graph.constant([END if stride > 0 else -END])
            parts.append((axis, first, last))
            at += 1
        steps.append(stride)
        axis += 1
    value = graph.value(x)
    if parts:
        axes, firsts, lasts = zip(*parts, strict=True)
        bounds = [graph.node("Concat", *names, axis=0) for names in (firsts, lasts)]
        value = graph.node("Slice", value, *bounds, graph.constant(axes), graph.constant(steps))
    if squeezed:
        value = graph.node("Squeeze", value, graph.constant(squeezed))
    if unsqueezed:
        value = graph.node("Unsqueeze", value, graph.constant(unsqueezed))
    return value


# Numbers.


def _cast(graph, operation):
    (x,) = operation.inputs
    wanted = operation.outputs[0].dtype
    if wanted not in _TYPES:
        raise ExportError(f"model: '{operation.name}' computes in {wanted.name}")
    return graph.node("Cast", graph.value(x), to=_TYPES[wanted])


def _square(graph, operation):
    (x,) = map(graph.value, operation.inputs)
    return graph.node("Mul", x, x)


def _squared_difference(graph, operation):
    difference = graph.node("Sub", *map(graph.value, operation.inputs))
    return graph.node("Mul", difference, difference)


def _rsqrt(graph, operation):
    (x,) = operation.inputs
    return graph.node("Reciprocal", graph.node("Sqrt", graph.value(x)))


def _relu6(graph, operation):
    (x,) = operation.inputs
    return graph.node("Clip", graph.value(x), *(graph.constant(np.float32(y)) for y in (0, 6)))


def _leaky_relu(graph, operation):
    (x,) = operation.inputs
    return graph.node("LeakyRelu", graph.value(x), alpha=operation.get_attr("alpha"))


def _floor_mod(graph, operation):
    x, y = operation.inputs
    _require_integers(operation)
    return graph.node("Mod", graph.value(x), graph.value(y))


def _floor_div(graph, operation):
    # ONNX's quotient of integers is rounded towards 0, its remainder has the divisor's sign.
    x, y = map(graph.value, operation.inputs)
    _require_integers(operation)
    return graph.node("Div", graph.node("Sub", x, graph.node("Mod", x, y)), y)


def _require_integers(operation):
    if not operation.inputs[0].dtype.is_integer:
        raise ExportError(f"model: '{operation.name}' divides with remainder; expected integers")


def _cumulative_sum(graph, operation):
    x, axis = operation.inputs
    flags = {key: int(operation.get_attr(key)) for key in ("exclusive", "reverse")}
    return graph.node("CumSum", graph.value(x), graph.value(axis), **flags)


def _matmul(first, second):
    """Of an operation with these names for "transpose the factor's last two axes"."""

    def translation(graph, operation):
        factors = []
        for x, flag in zip(operation.inputs, (first, second), strict=True):
            value = graph.value(x)
            if operation.get_attr(flag):
                *lead, a, b = range(_rank(x))
                value = graph.transposed(value, [*lead, b, a])
            factors.append(value)
        return graph.node("MatMul", *factors)

    return translation


def _einsum(graph, operation):
    equation = operation.get_attr("equation").decode()
    return graph.node("Einsum", *map(graph.value, operation.inputs), equation=equation)


def _batch_norm(graph, operation):
    if operation.get_attr("is_training"):
        raise ExportError(f"model: '{operation.name}' is batch norm in training")
    x, gain, bias, mean, variance = map(graph.value, operation.inputs)
    variance = graph.node(
        "Add", variance, graph.constant(np.float32(operation.get_attr("epsilon")))
    )
    scale = graph.node("Div", gain, graph.node("Sqrt", variance))
    normalized = graph.node("Mul", graph.node("Sub", x, mean), scale)
    # Its other outputs are for gradients.
    return [graph.node("Add", normalized, bias)] + [""] * (len(operation.outputs) - 1)


# Convolutions and poolings, with channels last in TensorFlow and after the batch in ONNX.


def _convolution(graph, operation):
    x, kernel = operation.inputs
    height, width, depth, filters = kernel.shape
    if operation.type == "DepthwiseConv2dNative":
        groups = depth
        weights = graph.transposed(graph.value(kernel), [2, 3, 0, 1])
        weights = graph.reshaped(weights, [depth * filters, 1, height, width])
    else:
        groups = x.shape[-1] // depth
        weights = graph.transposed(graph.value(kernel), [3, 2, 0, 1])
    return _channels_first(
        graph,
        operation,
        "Conv",
        weights,
        group=groups,
        kernel_shape=[height, width],
        dilations=operation.get_attr("dilations")[1:3],
    )


def _pooling(graph, operation):
    operator = {"MaxPool": "MaxPool", "AvgPool": "AveragePool"}[operation.type]
    sizes = operation.get_attr("ksize")[1:3]
    return _channels_first(graph, operation, operator, kernel_shape=sizes)


def _channels_first(graph, operation, operator, *weights, **attributes):
    if operation.get_attr("data_format") != b"NHWC":
        raise ExportError(f"model: '{operation.name}' has channels first; expected them last")
    strides = operation.get_attr("strides")[1:3]
    padding = operation.get_attr("padding")
    x = operation.inputs[0]
    if padding == b"EXPLICIT":
        sides = operation.get_attr("explicit_paddings")
        attributes["pads"] = [sides[2], sides[4], sides[3], sides[5]]
    elif padding == b"SAME":
        dilations = attributes.get("dilations", (1, 1))
        totals = [
            _same(*numbers)
            for numbers in zip(
                x.shape[1:3], attributes["kernel_shape"], strides, dilations, strict=True
            )
        ]
        if None in totals:
            attributes["auto_pad"] = "SAME_UPPER"
        else:
            before = [total // 2 for total in totals]
            after = [total - first for total, first in zip(totals, before, strict=True)]
            attributes["pads"] = before + after
    value = graph.transposed(graph.value(x), [0, 3, 1, 2])
    value = graph.node(operator, value, *weights, strides=strides, **attributes)
    return graph.transposed(value, [0, 2, 3, 1])


def _same(size, kernel, stride, dilation):
    """Padding on both sides together; None if it depends on a size known only when it runs."""
    width = (kernel - 1) * dilation + 1
    if stride == 1:
        return width - 1
    return size and max((-(-size // stride) - 1) * stride + width - size, 0)


# Fourier transforms.


def _rfft(graph, operation):
    """Frames [..., length] -> parts [..., bins]: sums of x_n cos(2 pi k n / length), and -sin."""
    x, length = operation.inputs
    length = _frame_length(graph, operation, length, x.shape[-1])
    bins = np.arange(length // 2 + 1)
    waves = _waves(graph, np.arange(length)[:, None], bins[None], length)
    cosines, sines = (graph.node("MatMul", graph.value(x), wave) for wave in waves)
    return (cosines, graph.node("Neg", sines))


def _irfft(graph, operation):
    """The inverse; all bins but the first and the last stand for two."""
    x, length = operation.inputs
    length = _frame_length(graph, operation, length, 2 * (x.shape[-1] - 1))
    bins = np.arange(length // 2 + 1)
    share = np.where(bins % (length // 2) == 0, 1.0, 2.0) / length
    waves = _waves(graph, bins[:, None], np.arange(length)[None], length)
    parts = [
        graph.node("MatMul", graph.node("Mul", part, graph.constant(np.float32(share))), wave)
        for part, wave in zip(graph.value(x), waves, strict=True)
    ]
    return graph.node("Sub", *parts)


def _waves(graph, rows, columns, length):
    """Cosines and sines of 2 pi row column / length, as matrices.

    Made of one period when the model is loaded: as constants, they would be most of a file.
    """
    period = 2 * np.pi * np.arange(length) / length
    product = graph.node("Mul", graph.constant(rows), graph.constant(columns))
    places = graph.node("Mod", product, graph.constant(length))
    return [
        graph.node("Gather", graph.constant(wave.astype(np.float32)), places, axis=0)
        for wave in (np.cos(period), np.sin(period))
    ]


def _frame_length(graph, operation, length, given):
    (length,) = graph.static(length, operation).tolist()
    if length % 2 or length != given:
        raise ExportError(
            f"model: '{operation.name}' is a Fourier transform of {given} numbers to length "
            f"{length}; expected the same, even"
        )
    return length


_TRANSLATIONS: dict[str, Callable[[_Graph, tf.Operation], Value]] = {
    "AvgPool": _pooling,
    "BatchMatMulV2": _matmul("adj_x", "adj_y"),
    "BroadcastTo": _broadcast,
    "Cast": _cast,
    "Complex": lambda graph, operation: tuple(map(graph.value, operation.inputs)),
    "ConcatV2": _concatenate,
    "Conv2D": _convolution,
    "Cumsum": _cumulative_sum,
    "DepthwiseConv2dNative": _convolution,
    "Einsum": _einsum,
    "ExpandDims": _expand_dims,
    "Fill": _fill,
    "FloorDiv": _floor_div,
    "FloorMod": _floor_mod,
    "FusedBatchNormV3": _batch_norm,
    "GatherV2": _gather,
    "IRFFT": _irfft,
    "Imag": lambda graph, operation: graph.value(operation.inputs[0])[1],
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul("transpose_a", "transpose_b"),
    "MaxPool": _pooling,
    "OnesLike": _like(1),
    "Pack": _pack,
    "Pad": _pad,
    "PadV2": _pad,
    "RFFT": _rfft,
    "Real": lambda graph, operation: graph.value(operation.inputs[0])[0],
    "Relu6": _relu6,
    "Reshape": _reshape,
    "Rsqrt": _rsqrt,
    "Slice": _slice,
    "SplitV": _split,
    "Square": _square,
    "SquaredDifference": _squared_difference,
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
    "Transpose": _transpose,
    "Unpack": _unpack,
    "ZerosLike": _like(0),
}
