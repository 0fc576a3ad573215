"""Croissant metadata: what a folder of generated data holds, for programs that read JSON-LD.

Reference: Croissant Format Specification 1.0, MLCommons (2024).
"""

import contextlib
import datetime
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from sepssl.data.labels import LABELS_FILE, read_csv
from sepssl.errors import InputError
from sepssl.files import atomic_file, in_utf8, sha256_of
from sepssl.version import __version__

CROISSANT = "croissant.json"
TEXT, FLOAT, INTEGER = "sc:Text", "sc:Float", "sc:Integer"
_TERMS = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject"),
    *("fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField"),
    *("path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
    *("separator", "source", "subField", "transform"),
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
} | {term: f"cr:{term}" for term in _TERMS}


class Column(NamedTuple):
    """A column of a table, or a value in JSON files.

    Attributes:
        name: in the header.
        description: what it holds, in one line.
        kind: `TEXT`, `FLOAT` or `INTEGER`.
        separator: between several values in a field; "" for a single one.
        json_path: of the values in a JSON file; "" in tables.
    """

    name: str
    description: str
    kind: str = TEXT
    separator: str = ""
    json_path: str = ""


class Files(NamedTuple):
    """Files of one kind.

    Attributes:
        name: of the set.
        description: what they hold, in one line.
        includes: a glob pattern of their paths.
        encoding: their MIME type.
        columns: of JSON files, the values to read: the first of each make up a record, and so on.
            Its field "name" is the file's name without suffix.
    """

    name: str
    description: str
    includes: str
    encoding: str
    columns: Sequence[Column] = ()


class Table(NamedTuple):
    """A CSV file, whose rows are records.

    Attributes:
        file: name of the file.
        description: what the rows are, in one line.
        columns: those of the file, or some of them.
    """

    file: str
    description: str
    columns: Sequence[Column]


def write_croissant(
    folder: str | os.PathLike,
    description: str,
    tables: Sequence[Table],
    files: Sequence[Files],
    licences: Sequence[str] = (),
) -> None:
    """Writes `croissant.json` into a folder, anew if it is there.

    Args:
        folder: of the data.
        description: of all of it, in one line.
        tables: CSV files in the folder; those that are missing are left out.
        files: sets of other files in it.
        licences: of what the data were made from.

    Raises:
        OutputError: if it cannot be written. InputError: if a table cannot be read.
    """
    folder = pathlib.Path(folder)
    tables = [table for table in tables if (folder / table.file).is_file()]
    metadata = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": in_utf8(folder.resolve().name),
        "description": f"{description} Made by sepssl {__version__}.",
        "dateCreated": datetime.date.today().isoformat(),
        **({"license": list(licences)} if licences else {}),
        "distribution": [
            *({
                "@type": "cr:FileObject",
                "@id": table.file,
                "name": table.file,
                "contentUrl": table.file,
                "encodingFormat": "text/csv",
                "sha256": sha256_of(folder / table.file),
            } for table in tables),
            *({
                "@type": "cr:FileSet",
                "@id": some.name,
                "name": some.name,
                "description": some.description,
                "includes": some.includes,
                "encodingFormat": some.encoding,
            } for some in files),
        ],
        "recordSet": [
            *map(_records_of_table, tables),
            *(_records_of_files(some) for some in files if some.columns),
        ],
    }  # fmt: skip
    with atomic_file(folder / CROISSANT, overwrite=True) as temporary:
        temporary.write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")


def licences_of(recordings: str | os.PathLike) -> list[str]:
    """The licences of recordings, as far as a column `license` or `licence` tells.

    Args:
        recordings: a manifest, or a folder, which may have one in its `labels.csv`.
    """
    path = pathlib.Path(recordings)
    found = set()
    with contextlib.suppress(InputError):  # none, or another kind of file
        _, rows = read_csv(path / LABELS_FILE if path.is_dir() else path, "")
        found = {row.get("license") or row.get("licence") or "" for _, row in rows}
    return sorted(found - {""})


def _records_of_table(table: Table) -> dict[str, Any]:
    records = pathlib.PurePath(table.file).stem
    source = {"fileObject": {"@id": table.file}}
    fields = [
        _field(records, column, source | {"extract": {"column": column.name}})
        for column in table.columns
    ]
    return _record_set(records, table.description, fields)


def _records_of_files(files: Files) -> dict[str, Any]:
    source = {"fileSet": {"@id": files.name}}
    records = f"{files.name}_records"
    name = {"extract": {"fileProperty": "filename"}, "transform": {"regex": r"^(.*)\..*$"}}
    fields = [_field(records, Column("name", "The file's name without suffix."), source | name)]
    fields += [
        _field(records, column, source | {"extract": {"jsonPath": column.json_path}})
        for column in files.columns
    ]
    return _record_set(records, files.description, fields)


def _record_set(name: str, description: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "field": fields,
    }


def _field(records: str, column: Column, source: dict[str, Any]) -> dict[str, Any]:
    if column.separator:
        source = source | {"transform": {"separator": column.separator}}
    return {
        "@type": "cr:Field",
        "@id": f"{records}/{column.name}",
        "name": column.name,
        "description": column.description,
        "dataType": column.kind,
        "source": source,
        **({"repeated": True} if column.separator else {}),
    }
