"""Where a model's weights come from: the run that made them, as far as its folder tells."""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

from sepssl.errors import InputError
from sepssl.weights import registry

ATTRIBUTION = "ATTRIBUTION.csv"


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a model card says of weights.

    Attributes:
        models: one record for each model: `file`, `sha256`; `name`, if it is one that comes with
            the package; and of the run that it lies in `config` and `metrics`, the last value of
            each; without them if it lies in none.
        license: of the weights; "" if not stated.
        attributions: contents of `ATTRIBUTION.csv`, which names the sounds that the weights were
            made from, and their authors; what passes on weights passes it on.
    """

    models: tuple[dict, ...] = ()
    license: str = ""
    attributions: tuple[bytes, ...] = ()


def origin_of(*paths: str | os.PathLike, license: str = "") -> Origin:
    """Reads what lies around `.keras` files.

    Of `RUN/final.keras` and `RUN/states/step-NNNNNNN.keras`, the run's configuration and metrics
    are taken along, and so is an `ATTRIBUTION.csv` beside a file. Absolute paths are cut to their
    last part: a card is for others to read.

    Raises:
        InputError: if a file cannot be read, or what lies beside it is damaged.
    """
    models = tuple(_record(pathlib.Path(path)) for path in paths)
    lists = dict.fromkeys(pathlib.Path(path).with_name(ATTRIBUTION) for path in paths)
    found = dict.fromkeys(_content(path) for path in lists if path.is_file())
    return Origin(models, license, tuple(found))


def _record(path: pathlib.Path) -> dict:
    digest = hashlib.sha256(_content(path)).hexdigest()
    record: dict[str, Any] = {"file": path.name, "sha256": digest}
    for entries in registry().values():
        for name, entry in entries.items():
            if entry["sha256"] == digest:
                record["name"] = name
    path = path.absolute()  # names of folders are looked at
    kept = path.parent.name == "states"
    run = path.parent.parent if kept else path.parent
    metrics = path.with_suffix(".json") if kept else run / "metrics.jsonl"
    if not (path.name == "final.keras" or kept) or not (run / "config.json").is_file():
        return record
    try:
        record["config"] = _without_folders(json.loads((run / "config.json").read_text()))
        if metrics.is_file():
            record["metrics"] = {}
            text = metrics.read_text()
            for line in text.splitlines() if not kept else [text]:
                record["metrics"] |= json.loads(line)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{run}: config.json or {metrics.name} could not be read ({error}); expected those "
            "of a run, or the .keras file in a folder of its own"
        ) from error
    return record


def _content(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: could not be read: {error.strerror}") from error


def _without_folders(value):
    if isinstance(value, dict):
        return {key: _without_folders(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_folders(part) for part in value]
    if isinstance(value, str):
        parts = value.split(",")
        return ",".join(pathlib.PurePath(p).name if os.path.isabs(p) else p for p in parts)
    return value
