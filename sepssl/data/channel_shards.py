"""Channels that sepssl-corpus has stored, read where they lie."""

import json
import os
import pathlib

import numpy as np

from sepssl.data.store import ClipStore
from sepssl.errors import InputError
from sepssl.progress import counted

PLAN, SHARDS = "corpus.json", "shards"
STORE = "store"  # the format of channels that training reads
CHANNELS = "channels-*"  # the store in a shard
_EXPECTED = "expected a folder that sepssl-corpus has written"
_STORE_EXPECTED = "expected a folder that sepssl-corpus separate --format=store has written"


def is_corpus(path: str | os.PathLike) -> bool:
    """Whether a path is a folder that sepssl-corpus has written to.

    Other programs, too, have files of this name; they do not name a task and a size of shards. A
    file that cannot be read counts as ours: nothing is done with what lies beside it before
    `read_plan` has said why.
    """
    try:
        plan = json.loads(pathlib.Path(path, PLAN).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return False
    except OSError:
        return True
    return isinstance(plan, dict) and {"task", "shard_size"} <= plan.keys()


def read_plan(folder: str | os.PathLike) -> dict:
    """What a corpus is made from, and with which settings.

    Raises:
        InputError: if that cannot be read.
    """
    path = pathlib.Path(folder, PLAN)
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {_EXPECTED}") from error
    if not isinstance(plan, dict):
        raise InputError(f"{path}: is not the plan of a corpus; {_EXPECTED}")
    return plan


def stored_separator(folder: str | os.PathLike, sample_rate: int, clip_seconds: float) -> str:
    """The name of the separator whose channels a corpus stores.

    Args:
        folder: the corpus.
        sample_rate, clip_seconds: `data.sample_rate` and `data.clip_seconds` of a configuration.

    Raises:
        InputError: if its channels are of another format, or do not fit these.
    """
    plan = read_plan(folder)
    if plan.get("format") != STORE:
        raise InputError(
            f"{folder}: holds a corpus of format={plan.get('format')}, which training does not "
            f"read; {_STORE_EXPECTED}"
        )
    for name, wanted in (("sample_rate", sample_rate), ("clip_seconds", clip_seconds)):
        if plan.get(name) != wanted:
            raise InputError(
                f"{folder}: holds channels made with {name}={plan.get(name)}, but "
                f"data.{name}={wanted}; expected the same"
            )
    return str(plan.get("separator"))


class ChannelShards:
    """The channels of some clips in the shards of a corpus, to read from as from a `ClipStore`.

    Args:
        folder: the corpus.
        mixtures: the clips; their channels are in the same order.

    Raises:
        InputError: if channels of a clip are missing, or those of other content.
    """

    def __init__(self, folder: str | os.PathLike, mixtures: ClipStore):
        self.folder = pathlib.Path(folder)
        keys = {name: mixtures.key(index) for index, name in enumerate(mixtures.names)}
        found: dict[str, tuple[ClipStore, int]] = {}
        for content in sorted(self.folder.glob(f"{SHARDS}/*/{CHANNELS}/content.json")):
            store = ClipStore(content.parent)
            for index, name in enumerate(store.names):
                if keys.get(name) == store.key(index):
                    found[name] = (store, index)
        missing = [name for name in mixtures.names if name not in found]
        if missing:
            raise InputError(
                f"{folder}: lacks the channels of {counted(len(missing), 'clip')} of "
                f"{len(mixtures)}, or has those of other content; the first: {missing[0]}; "
                "expected a finished corpus of the same recordings"
            )
        self._places = [found[name] for name in mixtures.names]

    def __len__(self) -> int:
        return len(self._places)

    def num_rows(self, index: int) -> int:
        """As `ClipStore.num_rows`."""
        store, place = self._places[index]
        return store.num_rows(place)

    def read(self, index: int, start: int = 0, num_samples: int | None = None) -> np.ndarray:
        """As `ClipStore.read`."""
        store, place = self._places[index]
        return store.read(place, start, num_samples)
