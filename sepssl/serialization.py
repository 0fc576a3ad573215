"""Models to `.keras` files and back, so that a file from anywhere is safe to load.

Keras's own safe mode has been broken more than once (CVE-2025-8747, -9906, -49655, CVE-2026-1462).
So the file is read here first, and Keras sees it only if it holds nothing but

- the three members that Keras writes for models like ours, of bounded size,
- classes that are registered (this package's, and what the user has registered) or listed in
  `KERAS_CLASSES`, none of which can carry code, read other files or reach the network,
- plain datasets of weights, whose bytes are all in the file,

and the network it describes is no larger than its weights. Whoever needs another of Keras's layers
in a backbone registers it: `keras.saving.custom_object_scope({"LayerScale": LayerScale})`.
"""

import contextlib
import io
import json
import math
import os
import pathlib
import warnings
import zipfile
from collections.abc import Iterator

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras import ops

from sepssl.errors import InputError
from sepssl.files import atomic_file
from sepssl.weights import model_file

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MEMBERS = {CONFIG, "metadata.json", WEIGHTS}
MAX_CONFIG_BYTES = 2**24
MAX_EXPANSION = 4  # Keras stores weights uncompressed, and trained ones hardly compress

_LAYERS = """
    InputLayer Dense Conv1D Conv2D DepthwiseConv1D DepthwiseConv2D SeparableConv1D SeparableConv2D
    AveragePooling1D AveragePooling2D MaxPooling1D MaxPooling2D
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalMaxPooling1D GlobalMaxPooling2D
    BatchNormalization GroupNormalization LayerNormalization UnitNormalization Normalization
    Rescaling Activation ReLU LeakyReLU PReLU ELU Softmax Dropout SpatialDropout1D SpatialDropout2D
    Add Average Concatenate Maximum Minimum Multiply Subtract
    Flatten Permute Reshape Cropping1D Cropping2D ZeroPadding1D ZeroPadding2D
    UpSampling1D UpSampling2D MultiHeadAttention GRU LSTM
"""
_INITIALIZERS = """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones
    Orthogonal RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
"""
# What `x + y` and functions of `keras.ops` become in a functional model.
_OPERATIONS = """
    Absolute Add Concatenate Divide Exp ExpandDims Log Max Maximum Mean Min Minimum Multiply
    Reshape Sqrt Square Squeeze Subtract Sum Transpose
"""
KERAS_CLASSES = frozenset(
    f"{module}.{name}"
    for module, names in {
        "keras": "DTypePolicy Sequential",
        "keras.src.models.functional": "Functional",
        "keras.layers": _LAYERS,
        "keras.initializers": _INITIALIZERS,
        "keras.regularizers": "L1 L1L2 L2",
        "keras.constraints": "MaxNorm MinMaxNorm NonNeg UnitNorm",
        "keras.src.ops.numpy": _OPERATIONS,
        "keras.src.ops.nn": "Relu Relu6 Sigmoid Silu Softmax",
    }.items()
    for name in names.split()
)


def load_model(path: str | os.PathLike, kind: type[keras.Model]) -> keras.Model:
    """Loads a model of class `kind`; no code in its file is ever run.

    Args:
        path: of a `.keras` file, or a name, see `sepssl.weights`.
        kind: `Separator` or `Encoder`.

    Raises:
        InputError: if there is no such file, it holds something else, something that is not
            allowed in a file (see above), or weights that are not finite.
    """
    path = model_file(path, kind.__name__)
    expected = f"expected a .keras file that holds a sepssl {kind.__name__}"
    with _one_line(path, expected):
        config, size = _read_members(path)
        root = _registered_class(config)
    if root is None or not issubclass(root, kind):
        raise InputError(f"{path}: holds {_with_article(config.get('class_name'))}; {expected}")
    with _one_line(path, expected):
        require_allowed_classes(config)
        with no_more_weights_than(size, f"in {WEIGHTS}"), warnings.catch_warnings(action="ignore"):
            # Under compile=True, a training configuration in the file would be restored as well.
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        # Where a layer cannot be built, Keras warns and goes on without its weights.
        found = sum(math.prod(variable.shape) for variable in model.weights)
        if found != size:
            raise ValueError(f"its network has {found} weights, {WEIGHTS} {size}")
        if not model.built:
            raise ValueError("it was saved before it was built, and has no weights")
        for variable in model.variables:
            if not ops.all(ops.isfinite(variable)):
                raise ValueError(f"{variable.path} holds NaN or infinite values")
    return model


def save_model(
    model: keras.Model,
    path: str | os.PathLike,
    overwrite: bool = False,
    half_precision: bool = False,
) -> None:
    """Writes a model to a `.keras` file that appears whole or not at all.

    A model that has not been built is built first: without weights in the file, every load would
    draw others.

    Args:
        model: a `Separator`, an `Encoder`, or a model that contains one.
        path: of the file, ending in .keras.
        overwrite: whether an existing file may be replaced.
        half_precision: whether weights are rounded to float16 in the file, which is then half as
            large. Loaded, they are float32 again.

    Raises:
        InputError: if `path` does not end in .keras, exists and `overwrite` is False, or cannot be
            written; if a weight is beyond the range of float16.
    """
    if pathlib.Path(path).suffix != ".keras":
        raise InputError(f"{path}: expected a file name that ends in .keras")
    if not model.built:
        model.build((None, None))
    with atomic_file(path, overwrite) as temporary:
        model.save(temporary)
        if half_precision:
            temporary.write_bytes(_halved(temporary, path))


def _halved(saved: pathlib.Path, path: str | os.PathLike) -> bytes:
    """A `.keras` file, compressed, with its floating-point weights in float16."""
    halved = io.BytesIO()
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(halved, "w", zipfile.ZIP_DEFLATED) as new:
        for member in (CONFIG, "metadata.json"):
            new.writestr(member, old.read(member))
        weights = io.BytesIO(old.read(WEIGHTS))
        with h5py.File(weights, "r+") as file:
            names: list[str] = []
            file.visit(names.append)
            for name in names:
                item = file[name]
                if not isinstance(item, h5py.Dataset) or item.dtype.kind != "f":
                    continue
                with np.errstate(over="ignore"):
                    rounded = item[()].astype(np.float16)
                if not np.all(np.isfinite(rounded)):
                    raise InputError(f"{path}: {name} is beyond the range of float16")
                attributes = dict(item.attrs)
                del file[name]
                file[name] = rounded
                file[name].attrs.update(attributes)
        # Written once more, since the file keeps the space of what was replaced.
        compact = io.BytesIO()
        with h5py.File(weights, "r") as file, h5py.File(compact, "w") as copy:
            copy.attrs.update(file.attrs)
            for name in file:
                file.copy(name, copy)
        new.writestr(WEIGHTS, compact.getvalue())
    return halved.getvalue()


@contextlib.contextmanager
def _one_line(path: pathlib.Path, expected: str) -> Iterator[None]:
    """Turns whatever a damaged or crafted file raises into an InputError of one line."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0][:200]
        reason = "".join(c if c.isprintable() else "?" for c in reason)
        raise InputError(f"{path}: could not be loaded ({reason}); {expected}") from error


def _read_members(path: pathlib.Path) -> tuple[dict, int]:
    """The configuration, and how many weights there are; verifies checksums."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        # Links, paths that leave the archive and duplicates are none of these three.
        if sorted(member.filename for member in members) != sorted(MEMBERS):
            raise ValueError(f"its members are not {', '.join(sorted(MEMBERS))}")
        for member in members:
            if (member.external_attr >> 28) not in (0, 0o10):  # neither unset nor a regular file
                raise ValueError(f"{member.filename} is not a regular file")
            limit = MAX_CONFIG_BYTES
            if member.filename == WEIGHTS:
                limit += MAX_EXPANSION * min(member.compress_size, path.stat().st_size)
            if member.file_size > limit:
                raise ValueError(
                    f"{member.filename} claims {member.file_size} bytes, of which "
                    f"{member.compress_size} are in the file"
                )
        config = json.loads(archive.read(CONFIG))
        size = _require_plain_weights(archive.read(WEIGHTS))
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG} does not describe a model")
    # Never restored; an encoder that was compiled would name its optimizer here.
    config["compile_config"] = None
    return config, size


def _registered_class(node: dict) -> type | None:
    """The class that Keras would make of a node, where it is a registered one."""
    registered = node.get("registered_name")
    # None is what Keras writes for a script's or notebook's own classes. Without any entry, older
    # Keras would read the node in another way.
    module = node.get("module", 0)
    if not isinstance(registered, str) or not (module is None or isinstance(module, str)):
        return None
    found = keras.saving.get_registered_object(registered)
    # Keras acts upon some values of class_name before it looks at registered_name.
    return found if getattr(found, "__name__", None) == node.get("class_name") else None


def require_allowed_classes(config: dict) -> None:
    """Raises ValueError if Keras would make anything but allowed objects of a configuration.

    Args:
        config: as of `keras.saving.serialize_keras_object`.
    """
    nodes = [config]
    while nodes:
        node = nodes.pop()
        if isinstance(node, list):
            nodes += node
        elif isinstance(node, dict):
            nodes += node.values()
            if "class_name" in node and not _allowed(node):
                raise ValueError(
                    f"holds {node.get('module')}.{node['class_name']}, which is neither "
                    "registered nor in sepssl.serialization.KERAS_CLASSES"
                )


def _allowed(node: dict) -> bool:
    name, module = node["class_name"], node.get("module")
    if name == "__keras_tensor__":  # where layers of a functional model are connected
        return True
    if name == "function":
        function = node.get("config")
        return isinstance(function, str) and (
            keras.saving.get_registered_object(function) is not None
            or (module in ("builtins", "keras.activations") and function in _activations())
        )
    return _registered_class(node) is not None or f"{module}.{name}" in KERAS_CLASSES


def _activations() -> set[str]:
    return set(dir(keras.activations)) - {"deserialize", "get", "serialize"}


def _require_plain_weights(content: bytes) -> int:
    """Raises ValueError unless all that a weights file holds is in it.

    Returns:
        How many weights there are, an optimizer's not counted.
    """
    size = 0
    with h5py.File(io.BytesIO(content), "r") as file:
        groups, seen = [file], {h5py.h5o.get_info(file.id).addr}
        while groups:
            group = groups.pop()
            for name in group:
                # Soft and external links lead elsewhere, in this file or in another.
                hard = isinstance(group.get(name, getlink=True), h5py.HardLink)
                address = h5py.h5o.get_info(group[name].id).addr if hard else None
                if address is None or address in seen:
                    raise ValueError(f"{WEIGHTS}: {name} in {group.name} is a link")
                seen.add(address)
                item = group[name]
                if isinstance(item, h5py.Group):
                    groups.append(item)
                    continue
                # One piece of this very file, as Keras writes it: not chunked, compressed,
                # virtual, external, or claimed but never written.
                if (
                    not isinstance(item, h5py.Dataset)
                    or item.dtype.hasobject
                    or item.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS
                    or item.external
                    or item.id.get_storage_size() != item.nbytes
                ):
                    raise ValueError(f"{WEIGHTS}: {item.name} is not a plain array in the file")
                if "optimizer" not in item.name.split("/"):
                    size += item.size
    return size


@contextlib.contextmanager
def no_more_weights_than(size: int, source: str) -> Iterator[None]:
    """Raises ValueError where Keras is about to make more weights, before they take memory.

    Args:
        size: how many there may be, counted from the start of the block.
        source: what there are so many of, for the message.
    """
    made = 0

    def creator(next_creator, **kwargs):
        nonlocal made
        value = kwargs["initial_value"]
        with tf.Graph().as_default():  # in a graph, nothing is computed
            shape = ops.shape(value() if callable(value) else value)
        # States of random generators are two numbers each, and in no file.
        made += math.prod(shape) if math.prod(shape) > 2 else 0
        if made > size:
            raise ValueError(f"its network has more weights than the {size} {source}")
        return next_creator(**kwargs)

    with tf.variable_creator_scope(creator):
        yield


def _with_article(name) -> str:
    if not (isinstance(name, str) and name.isidentifier() and len(name) <= 60):
        return "no model of this package"
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
