import json

import numpy as np
import pytest

from sepssl.data.store import ClipStore
from sepssl.errors import InputError


def clips(count=5):
    rng = np.random.default_rng(0)
    return [
        (10.0 ** (i - 3) * rng.normal(size=(2, 50 + 10 * i))).astype(np.float32)
        for i in range(count)
    ]


NAMES = [f"clip{i}" for i in range(5)]


def test_what_is_read_is_what_was_written_to_16_bit(tmp_path):
    store = ClipStore(tmp_path / "store")
    store.fill("here", NAMES, lambda first: clips()[first:], "filling")
    store = ClipStore(tmp_path / "store")
    assert store.names == NAMES
    assert store.rows == 2
    for i, clip in enumerate(clips()):
        assert store.num_samples(i) == clip.shape[1]
        np.testing.assert_allclose(store.read(i), clip, atol=np.abs(clip).max() / 32767 * 0.51)
        np.testing.assert_array_equal(store.read(i, 7, 20), store.read(i)[:, 7:27])


def test_a_short_clip_is_repeated(tmp_path):
    store = ClipStore(tmp_path)
    store.fill("here", NAMES, lambda first: clips()[first:], "filling")
    whole = store.read(0)
    np.testing.assert_array_equal(store.read(0, 0, 120), np.tile(whole, 3)[:, :120])


def test_an_interrupted_filling_goes_on(tmp_path):
    store = ClipStore(tmp_path / "store")

    def interrupted(first):
        yield from clips()[first:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.fill("here", NAMES, interrupted, "filling")
    # What a kill in mid-write leaves: samples without their line, half a line.
    with open(tmp_path / "store" / "samples.int16", "ab") as file:
        file.write(b"123")
    with open(tmp_path / "store" / "index.jsonl", "a") as file:
        file.write('{"name": "cli')
    asked = []

    def rest(first):
        asked.append(first)
        return clips()[first:]

    ClipStore(tmp_path / "store").fill("here", NAMES, rest, "filling")
    assert asked == [3]
    straight = ClipStore(tmp_path / "straight")
    straight.fill("here", NAMES, lambda first: clips()[first:], "filling")
    for file in ("samples.int16", "index.jsonl"):
        assert (tmp_path / "store" / file).read_bytes() == (
            tmp_path / "straight" / file
        ).read_bytes()


def test_a_complete_store_reads_no_clip_again(tmp_path):
    ClipStore(tmp_path).fill("here", NAMES, lambda first: clips()[first:], "filling")
    ClipStore(tmp_path).fill("here", NAMES, lambda first: pytest.fail("read again"), "filling")


def test_errors_skip_a_clip_and_are_reported(tmp_path):
    items = clips()
    items[0] = InputError("clip0: is broken")
    items[3] = InputError("clip3: is broken")
    store = ClipStore(tmp_path)
    skipped = store.fill("here", NAMES, lambda first: items[first:], "filling")
    assert [name for name, _ in skipped] == ["clip0", "clip3"]
    assert store.names == ["clip1", "clip2", "clip4"]
    np.testing.assert_allclose(store.read(2), clips()[4], atol=np.abs(clips()[4]).max() / 32767)
    again = ClipStore(tmp_path).fill("here", NAMES, lambda first: [], "filling")
    assert json.loads(json.dumps(skipped)) == again


def test_other_clips_are_refused(tmp_path):
    ClipStore(tmp_path).fill("here", NAMES, lambda first: clips()[first:], "filling")
    for origin, names in (("there", NAMES), ("here", NAMES[:4])):
        with pytest.raises(InputError, match="holds other clips"):
            ClipStore(tmp_path).fill(origin, names, lambda first: [], "filling")


def test_no_usable_clip(tmp_path):
    with pytest.raises(InputError, match="no usable clip; the first: broken"):
        ClipStore(tmp_path).fill("here", ["a"], lambda first: [InputError("broken")], "filling")
