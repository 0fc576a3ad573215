import subprocess
import sys

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
    assert store.num_rows(0) == 2
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
    broken = InputError("clip1: is broken")
    items = [clips()[0], broken, *clips()[2:]]

    def interrupted(first):
        yield from items[first:3]
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
        return items[first:]

    skipped = ClipStore(tmp_path / "store").fill("here", NAMES, rest, "filling")
    assert asked == [3]
    assert skipped == [("clip1", "clip1: is broken")]  # from before the interruption
    straight = ClipStore(tmp_path / "straight")
    straight.fill("here", NAMES, lambda first: items[first:], "filling")
    for file in ("samples.int16", "index.jsonl"):
        found = (tmp_path / "store" / file).read_bytes()
        assert found == (tmp_path / "straight" / file).read_bytes()


FILLER = """
import sys, time, numpy as np
from sepssl.data.store import ClipStore
def clips(first):
    for i in range(first, 20):
        time.sleep(0.05)
        yield np.full((1, 1000 + i), i + 1.0, np.float32)
ClipStore(sys.argv[1]).fill("here", [str(i) for i in range(20)], clips, "filling")
"""


def test_two_processes_fill_one_store(tmp_path):
    command = [sys.executable, "-c", FILLER, tmp_path / "store"]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    store = ClipStore(tmp_path / "store")
    assert store.names == [str(i) for i in range(20)]
    for i in range(20):
        np.testing.assert_allclose(store.read(i), np.full((1, 1000 + i), i + 1.0), rtol=1e-5)
    assert (tmp_path / "store" / "samples.int16").stat().st_size == 2 * sum(range(1000, 1020))


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
    assert ClipStore(tmp_path).fill("here", NAMES, lambda first: [], "filling") == skipped


def test_other_clips_are_refused(tmp_path):
    ClipStore(tmp_path).fill("here", NAMES, lambda first: clips()[first:], "filling")
    for origin, names in (("there", NAMES), ("here", NAMES[:4])):
        with pytest.raises(InputError, match="holds other clips"):
            ClipStore(tmp_path).fill(origin, names, lambda first: [], "filling")


def test_no_usable_clip(tmp_path):
    with pytest.raises(InputError, match="no usable clip; the first: broken"):
        ClipStore(tmp_path).fill("here", ["a"], lambda first: [InputError("broken")], "filling")
