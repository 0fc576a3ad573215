"""Rows of a database as one file: .npz, .csv or .parquet."""

import csv
import itertools
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator

import numpy as np

from sepssl.files import atomic_file
from sepssl.index.store import WindowStore

SUFFIXES = (".npz", ".csv", ".parquet")
_BATCH = 4096  # rows at a time

Row = tuple[str, float, float, int, float, np.ndarray]


def write_table(path: str | os.PathLike, store: WindowStore, dim: int) -> None:
    """Writes all rows of complete recordings, in memory that does not grow with them.

    - `.npz`: `names` [rows], `starts` and `ends` float64 [rows] in seconds, `channels` int16
      [rows], `levels` float32 [rows] in dB, `embeddings` float32 [rows, dim].
    - `.csv`: `file`, `start`, `end`, `channel`, `level_db`, and `e0` and so on, with as many digits
      as give every float32 back.
    - `.parquet`: those columns, and `embedding`, a list of `dim` float32 values.

    Args:
        path: the file, which may exist; its suffix is the format.
        store: the database, open.
        dim: of the vectors.

    Raises:
        OutputError: if the file cannot be written.
    """
    write = {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}
    with atomic_file(path, overwrite=True) as temporary:
        write[pathlib.Path(path).suffix.lower()](temporary, store, dim)


def _batches(store: WindowStore) -> Iterator[list[Row]]:
    rows = store.rows()
    while batch := list(itertools.islice(rows, _BATCH)):
        yield batch


def _write_npz(path: pathlib.Path, store: WindowStore, dim: int) -> None:
    count = store.count()[1]
    longest = max((len(name) for name in store.names()), default=1)
    arrays: dict[str, tuple[str, Callable[[Row], object]]] = {
        "names": (f"<U{max(longest, 1)}", lambda row: row[0]),
        "starts": ("<f8", lambda row: row[1]),
        "ends": ("<f8", lambda row: row[2]),
        "channels": ("<i2", lambda row: row[3]),
        "levels": ("<f4", lambda row: row[4]),
        "embeddings": ("<f4", lambda row: row[5]),
    }
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, (dtype, value) in arrays.items():
            shape = (count, dim) if name == "embeddings" else (count,)
            # A fixed time, so that equal arrays are equal files.
            member = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(member, "w", force_zip64=True) as file:
                header = {"descr": dtype, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(file, header)
                for batch in _batches(store):
                    file.write(np.array([value(row) for row in batch], dtype).tobytes())


def _write_csv(path: pathlib.Path, store: WindowStore, dim: int) -> None:
    with open(path, "w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        head = ["file", "start", "end", "channel", "level_db"]
        writer.writerow([*head, *(f"e{i}" for i in range(dim))])
        for name, start, end, channel, level, vector in store.rows():
            # str() of a NumPy float32 has the fewest digits that give it back.
            writer.writerow([name, start, end, channel, f"{level:.2f}", *map(str, vector)])


def _write_parquet(path: pathlib.Path, store: WindowStore, dim: int) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        {
            "file": pyarrow.string(),
            "start": pyarrow.float64(),
            "end": pyarrow.float64(),
            "channel": pyarrow.int16(),
            "level_db": pyarrow.float32(),
            "embedding": pyarrow.list_(pyarrow.float32(), dim),
        }
    )
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for batch in _batches(store):
            *columns, vectors = zip(*batch, strict=True)
            values = pyarrow.array(np.concatenate(vectors))
            lists = pyarrow.FixedSizeListArray.from_arrays(values, dim)
            arrays = [
                pyarrow.array(column, field.type)
                for column, field in zip(columns, schema, strict=False)
            ]
            writer.write_batch(pyarrow.record_batch([*arrays, lists], schema=schema))
