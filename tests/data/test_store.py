import subprocess
import sys

import numpy as np
import pytest

from sepssl.data.store import ClipStore, require_same_clips
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
    store.fill("here", NAMES, lambda indices: [clips()[i] for i in indices], "filling")
    store = ClipStore(tmp_path / "store")
    assert store.names == NAMES
    assert store.num_rows(0) == 2
    for i, clip in enumerate(clips()):
        assert store.num_samples(i) == clip.shape[1]
        np.testing.assert_allclose(store.read(i), clip, atol=np.abs(clip).max() / 32767 * 0.51)
        np.testing.assert_array_equal(store.read(i, 7, 20), store.read(i)[:, 7:27])


def test_a_short_clip_is_repeated(tmp_path):
    store = ClipStore(tmp_path)
    store.fill("here", NAMES, lambda indices: [clips()[i] for i in indices], "filling")
    whole = store.read(0)
    np.testing.assert_array_equal(store.read(0, 0, 120), np.tile(whole, 3)[:, :120])


def test_an_interrupted_filling_goes_on(tmp_path):
    store = ClipStore(tmp_path / "store")
    broken = InputError("clip1: is broken")
    items = [clips()[0], broken, *clips()[2:]]

    def interrupted(indices):
        yield from (items[i] for i in indices[:3])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.fill("here", NAMES, interrupted, "filling")
    # What a kill in mid-write leaves: samples without their line, half a line.
    with open(tmp_path / "store" / "samples.int16", "ab") as file:
        file.write(b"123")
    with open(tmp_path / "store" / "index.jsonl", "a") as file:
        file.write('{"name": "cli')
    asked = []

    def rest(indices):
        asked.append(indices)
        return [items[i] for i in indices]

    skipped = ClipStore(tmp_path / "store").fill("here", NAMES, rest, "filling")
    assert asked == [[3, 4]]
    assert skipped == [("clip1", "clip1: is broken")]  # from before the interruption
    straight = ClipStore(tmp_path / "straight")
    straight.fill("here", NAMES, lambda indices: [items[i] for i in indices], "filling")
    for file in ("samples.int16", "index.jsonl"):
        found = (tmp_path / "store" / file).read_bytes()
        assert found == (tmp_path / "straight" / file).read_bytes()


FILLER = """
import sys, time, numpy as np
from sepssl.data.store import ClipStore
def clips(indices):
    for i in indices:
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
    ClipStore(tmp_path).fill(
        "here", NAMES, lambda indices: [clips()[i] for i in indices], "filling"
    )
    ClipStore(tmp_path).fill("here", NAMES, lambda indices: pytest.fail("read again"), "filling")


def test_errors_skip_a_clip_and_are_reported(tmp_path):
    items = clips()
    items[0] = InputError("clip0: is broken")
    items[3] = InputError("clip3: is broken")
    store = ClipStore(tmp_path)
    skipped = store.fill("here", NAMES, lambda indices: [items[i] for i in indices], "filling")
    assert [name for name, _ in skipped] == ["clip0", "clip3"]
    assert store.names == ["clip1", "clip2", "clip4"]
    np.testing.assert_allclose(store.read(2), clips()[4], atol=np.abs(clips()[4]).max() / 32767)
    assert ClipStore(tmp_path).fill("here", NAMES, lambda indices: [], "filling") == skipped


def test_clips_of_another_origin_are_refused(tmp_path):
    fill(tmp_path, NAMES)
    with pytest.raises(InputError, match="holds other clips"):
        ClipStore(tmp_path).fill("there", NAMES, lambda indices: [], "filling")


def fill(folder, names, keys=None, stamps=None):
    """Fills a store from `clips()`, by number in the name; returns it and what was made for it."""
    made, keyed = [], []

    def read(indices):
        for index in indices:
            made.append(names[index])
            yield clips(10)[int(names[index][4:])]

    def key(index):
        keyed.append(names[index])
        return (keys or {}).get(names[index], "")

    def stamp(index):
        return (stamps or {}).get(names[index], "")

    store = ClipStore(folder)
    store.fill("here", names, read, "filling", stamp, key)
    return store, made, keyed


def assert_holds(store, names):
    assert store.names == names
    for index, name in enumerate(names):
        expected = clips(10)[int(name[4:])]
        atol = np.abs(expected).max() / 32767 * 0.51
        np.testing.assert_allclose(store.read(index), expected, atol=atol)


def test_runs_of_different_size_share_a_store(tmp_path):
    large, small = [f"clip{i}" for i in range(8)], [f"clip{i}" for i in range(4)]
    store, made, _ = fill(tmp_path, large)
    assert made == large
    for names in (small, ["clip6", "clip1"]):
        store, made, _ = fill(tmp_path, names)
        assert made == []
        assert_holds(store, names)
    store, made, _ = fill(tmp_path, ["clip9", *large])
    assert made == ["clip9"]
    assert_holds(store, ["clip9", *large])
    assert len(ClipStore(tmp_path)) == 9


def test_only_clips_whose_files_changed_are_made_again(tmp_path):
    first = dict.fromkeys(NAMES, "1")
    fill(tmp_path, NAMES, first, first)
    touched = first | {"clip1": "2", "clip3": "2"}
    changed = first | {"clip3": "2"}
    store, made, keyed = fill(tmp_path, NAMES, changed, touched)
    assert made == ["clip3"]
    assert set(keyed) == {"clip1", "clip3"}  # the files of the others are not even opened
    assert_holds(store, NAMES)
    _, made, keyed = fill(tmp_path, NAMES, changed, touched)
    assert (made, keyed) == ([], [])
    assert_holds(ClipStore(tmp_path), NAMES)


def test_a_power_cut_costs_the_clips_whose_samples_are_lost(tmp_path):
    fill(tmp_path, NAMES)
    samples = tmp_path / "samples.int16"
    content = samples.read_bytes()
    # The lines of all five are there, of the samples only those of the first two and a half.
    sizes = [2 * clip.size for clip in clips()]
    samples.write_bytes(content[: sum(sizes[:2]) + sizes[2] // 2])
    assert_holds(ClipStore(tmp_path), NAMES[:2])
    store, made, _ = fill(tmp_path, NAMES)
    assert made == NAMES[2:]
    assert_holds(store, NAMES)
    samples.unlink()
    store, made, _ = fill(tmp_path, NAMES)
    assert made == NAMES
    assert_holds(store, NAMES)


@pytest.mark.parametrize(
    "line",
    [
        b"[1]\n",
        b"\xff\n",
        b'{"name": "clip2"}\n',
        b'{"name": "clip2", "stamp": "", "key": "", "shape": [2], "offset": 0, "scale": 1.0}\n',
        b'{"name": "clip2", "stamp": "", "key": "", "shape": [2, -5], "offset": 0, "scale": 1.0}\n',
        b'{"name": "clip2", "stamp": "", "key": "", "shape": [2, 9], "offset": -9, "scale": 1.0}\n',
        b'{"name": "clip2", "stamp": "", "key": "", "shape": [2, 9], "offset": 0, "scale": NaN}\n',
        b'{"name": "clip2", "stamp": "", "key": "", "shape": [2, 9000000000], "offset": 0, '
        b'"scale": 1.0}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_damaged_line_and_what_follows_is_made_again(tmp_path, line):
    fill(tmp_path, NAMES)
    lines = (tmp_path / "index.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = line
    (tmp_path / "index.jsonl").write_bytes(b"".join(lines))
    store, made, _ = fill(tmp_path, NAMES)
    assert made == NAMES[2:]
    assert_holds(store, NAMES)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b'{"origin": 1}'])
def test_a_store_without_a_description_is_refused(tmp_path, content):
    fill(tmp_path, NAMES)
    (tmp_path / "content.json").write_bytes(content)
    with pytest.raises(InputError, match=r"content\.json: .*expected a new folder"):
        fill(tmp_path, NAMES)


def test_a_run_that_is_continued_has_the_clips_it_began_with(tmp_path):
    first = dict.fromkeys(NAMES, "1")
    store = fill(tmp_path / "store", NAMES, first)[0]
    (tmp_path / "run").mkdir()
    require_same_clips(store, tmp_path / "run")
    require_same_clips(fill(tmp_path / "store", NAMES, first)[0], tmp_path / "run")
    for names, keys, now in (
        (NAMES[:4], first, "now there are 4"),
        (NAMES, first | {"clip2": "2"}, "not the same ones"),
    ):
        store = fill(tmp_path / "store", names, keys, keys)[0]
        with pytest.raises(InputError, match=f"run: holds a run on 5 clips, {now}; expected the"):
            require_same_clips(store, tmp_path / "run")


def test_no_usable_clip(tmp_path):
    with pytest.raises(InputError, match="no usable clip; the first: broken"):
        ClipStore(tmp_path).fill("here", ["a"], lambda indices: [InputError("broken")], "filling")
