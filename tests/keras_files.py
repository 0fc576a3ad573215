"""`.keras` files that nobody should load: made of a good one."""

import io
import json
import pathlib
import zipfile
from collections.abc import Callable

import h5py
import numpy as np

WEIGHTS = "model.weights.h5"


def rewrite(
    source: pathlib.Path,
    target: pathlib.Path,
    config: Callable[[dict], dict | None] = lambda config: config,
    weights: Callable[[bytes], bytes] = lambda content: content,
    compression: int = zipfile.ZIP_STORED,
) -> pathlib.Path:
    """A copy of a `.keras` file with its members changed, checksums as they should be."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        described = json.loads(old.read("config.json"))
        new.writestr("metadata.json", old.read("metadata.json"))
        new.writestr("config.json", json.dumps(config(described) or described))
        new.writestr(WEIGHTS, weights(old.read(WEIGHTS)))
    return target


def edited(edit: Callable[[h5py.File], None]) -> Callable[[bytes], bytes]:
    """What `rewrite` takes as `weights`, to edit them as an HDF5 file."""

    def change(content: bytes) -> bytes:
        buffer = io.BytesIO(content)
        with h5py.File(buffer, "r+") as file:
            edit(file)
        return buffer.getvalue()

    return change


def flip_bits(content: bytes, rng: np.random.Generator, count: int) -> bytes:
    """`content` with some bits changed."""
    flipped = bytearray(content)
    for place in rng.integers(len(flipped), size=count):
        flipped[place] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


STRANGE = (
    None,
    True,
    -1,
    0,
    3,
    2**31,
    10**12,
    1e308,
    "",
    "relu",
    "float16",
    "\x1b[2J",
    [],
    [3],
    {},
)


def change_value(config: dict, rng: np.random.Generator) -> dict:
    """A configuration with one of its values, on whichever level, replaced by a strange one."""
    places, nodes = [], [config]
    while nodes:
        node = nodes.pop()
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                nodes.append(node[key])
    node, key = places[rng.integers(len(places))]
    node[key] = STRANGE[rng.integers(len(STRANGE))]
    return config
