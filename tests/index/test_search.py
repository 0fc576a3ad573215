import numpy as np
import pytest
import soundfile

from sepssl.errors import InputError
from sepssl.index import search
from sepssl.index.search import WindowIndex
from sepssl.index.store import Rows, WindowStore, time_in
from sepssl.index.vectors import CONFIG_KEY, update_vectors, vectors_config
from sepssl.pipelines.search import row_of, write_results
from sepssl.reports.found import in_file

WINDOWS, CHANNELS, DIM = 200, 4, 16


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An index of 200 windows, a row for the mixture and three for channels; its vectors."""
    folder = tmp_path_factory.mktemp("index")
    vectors = np.random.default_rng(0).normal(size=(WINDOWS, CHANNELS, DIM)).astype(np.float32)
    with WindowStore(folder, {"encoder": "0123"}) as store:
        names = ["a.wav", "b.wav"]
        recordings = store.add_recordings(
            "/data", names, ["/data/a.wav", "/data/b.wav"], [0.0, 2.5]
        )
        for recording, part in zip(recordings, np.split(vectors, 2), strict=True):
            starts = np.repeat(0.5 * np.arange(len(part)), CHANNELS)
            rows = np.tile(np.arange(CHANNELS), len(part))
            flat = part.reshape(-1, DIM)
            store.append(recording.id, Rows(starts, starts + 1, rows, -1.0 * rows, flat))
            store.finish(recording.id, "", 100.0)
        store.set_metadata(CONFIG_KEY, vectors_config(DIM))
        update_vectors(store, DIM)
    return folder, vectors / np.linalg.norm(vectors, axis=2, keepdims=True)


@pytest.mark.parametrize(
    ("rows", "channels"), [("mixture", [0]), ("channels", [1, 2, 3]), ("both", [0, 1, 2, 3])]
)
@pytest.mark.parametrize("k", [1, 7, 150, 200])
def test_the_nearest_windows_each_once(made, rows, channels, k):
    folder, vectors = made
    index = WindowIndex(folder)
    query = np.random.default_rng(1).normal(size=DIM)
    scores = vectors[:, channels] @ (query / np.linalg.norm(query))
    expected = np.argsort(-scores.max(axis=1))[:k]
    found = index.search(query, k, rows)
    assert len(found) == k
    places = [("ab".index(row.recording[0]) * 100 + round(2 * row.start)) for row in found]
    np.testing.assert_allclose(
        [row.score for row in found], scores.max(axis=1)[expected], atol=2e-3
    )
    # float16 may swap neighbours that are next to equal
    assert np.mean(np.array(places) == expected) > 0.9
    assert len(set(places)) == k
    for place, row in zip(places, found, strict=True):
        assert row.channel == channels[scores[place].argmax()]
        assert row.level_db == -row.channel
        assert (row.path, row.offset) == (f"/data/{row.recording}", [0.0, 2.5][place // 100])


def test_of_overlapping_windows_the_nearest_is_found(made):
    """Windows of 1 s begin every 0.5 s: each overlaps the one before and the one after it."""
    folder, vectors = made
    index = WindowIndex(folder)
    query = vectors[120, 2]
    scores = (vectors @ query).max(axis=1)
    expected: list[int] = []
    for place in np.argsort(-scores):
        beside = [other for other in expected if abs(other - place) == 1]
        if not any(other // 100 == place // 100 for other in beside):
            expected.append(place)

    def places(found):
        return ["ab".index(row.recording[0]) * 100 + round(2 * row.start) for row in found]

    assert places(index.search(query, 25, overlapping=False)) == expected[:25]
    all_found = places(index.search(query, 200, overlapping=False))
    assert sorted(all_found) == sorted(expected)
    (own,) = index.search(query, 1)
    assert places([own]) == [120]
    without = places(index.search(query, 200, besides=own))
    assert without == [place for place in places(index.search(query, 200)) if place != 120]
    apart = places(index.search(query, 200, overlapping=False, besides=own))
    assert {119, 120, 121}.isdisjoint(apart)
    assert sorted([*apart, 120]) == sorted(expected)


def test_windows_that_touch_do_not_overlap(tmp_path):
    """The end of one, 3 * 0.1, is beyond the beginning of the next, 0.3, by rounding."""
    with WindowStore(tmp_path, {"encoder": "0123"}) as store:
        (recording,) = store.add_recordings("/data", ["a.wav"], ["/data/a.wav"], [0.0])
        starts, ends = np.array([0.2, 0.3, 0.35]), np.array([3 * 0.1, 0.4, 0.45])
        vectors = np.eye(DIM, dtype=np.float32)[:1] + np.array([[0.0], [0.1], [0.2]])
        zeros = np.zeros(3)
        store.append(recording.id, Rows(starts, ends, zeros.astype(int), zeros, vectors))
        store.finish(recording.id, "", 1.0)
        store.set_metadata(CONFIG_KEY, vectors_config(DIM))
        update_vectors(store, DIM)
    found = WindowIndex(tmp_path).search(np.eye(DIM)[0], 3, overlapping=False)
    assert [row.start for row in found] == [0.2, 0.3]


def test_parts_of_one_file_that_overlap_are_one_place(tmp_path):
    """Recordings may be parts of a file: 1 to 2 s of one that begins at 0.5 s is 1.5 to 2.5 s."""
    with WindowStore(tmp_path, {"encoder": "0123"}) as store:
        recordings = store.add_recordings(
            "/data", ["a#0", "a#1", "b"], ["/data/a.wav", "/data/a.wav", "/data/b.wav"], [0, 0.5, 0]
        )
        similar = [1.0, 0.9, 0.8]
        for recording, value in zip(recordings, similar, strict=True):
            vector = np.float32([[value, np.sqrt(1 - value**2), *[0] * (DIM - 2)]])
            one = np.array([1.0])
            store.append(recording.id, Rows(one, one + 1, np.array([0]), 0 * one, vector))
            store.finish(recording.id, "", 3.0)
        store.set_metadata(CONFIG_KEY, vectors_config(DIM))
        update_vectors(store, DIM)
    index = WindowIndex(tmp_path)
    query = np.eye(DIM)[0]
    assert [row.recording for row in index.search(query, 3)] == ["a#0", "a#1", "b"]
    apart = index.search(query, 3, overlapping=False)
    assert [row.recording for row in apart] == ["a#0", "b"]


def test_beyond_the_limit_the_graph_finds_nearly_the_same(made, monkeypatch):
    folder, vectors = made
    index = WindowIndex(folder)
    exact = [{row.row for row in index.search(vectors[i, 0], 10)} for i in range(20)]
    monkeypatch.setattr(search, "EXACT_BELOW", 10)
    near = [{row.row for row in index.search(vectors[i, 0], 10)} for i in range(20)]
    recall = np.mean([len(a & b) / 10 for a, b in zip(exact, near, strict=True)])
    assert recall > 0.98


def test_vectors_of_zero_are_never_found(tmp_path, monkeypatch):
    vectors = np.random.default_rng(2).normal(size=(300, DIM)).astype(np.float32)
    vectors[::2] = 0
    with WindowStore(tmp_path, {"encoder": "0123"}) as store:
        (recording,) = store.add_recordings("/data", ["a.wav"], ["/data/a.wav"], [0.0])
        starts, zeros = np.arange(300.0), np.zeros(300)
        store.append(recording.id, Rows(starts, starts + 1, zeros.astype(int), zeros, vectors))
        store.finish(recording.id, "", 300.0)
        store.set_metadata(CONFIG_KEY, vectors_config(DIM))
        update_vectors(store, DIM)
    index = WindowIndex(tmp_path)
    scores = vectors[1::2] @ vectors[1] / np.linalg.norm(vectors[1::2], axis=1)
    expected = 2 * np.argsort(-scores) + 1
    found = [row.start for row in index.search(vectors[1], 300)]
    assert found[:20] == expected[:20].tolist()
    assert sorted(found) == list(range(1, 300, 2))
    monkeypatch.setattr(search, "EXACT_BELOW", 10)
    assert [row.start for row in index.search(vectors[1], 9)] == expected[:9].tolist()


def test_recordings_of_one_name_have_names_that_differ(tmp_path):
    """As perch-hoplite allows them: of several deployments, of several projects."""
    places = [("n", "/x"), ("m", "/x"), ("n", "/y")]
    with WindowStore(tmp_path, {}) as store:
        for place in places:
            deployment = store._database.execute(
                "INSERT INTO deployments (name, project) VALUES (?, ?)", place
            ).lastrowid
            for name in ("a.wav", f"{place[0]}/b.wav", f"{''.join(place[::-1])}.wav"):
                store._database.execute(
                    "INSERT INTO recordings (filename, deployment_id, complete) VALUES (?, ?, 1)",
                    (name, deployment),
                )
        assert list(store.names()) == [
            *("/x/n/a.wav", "/x/n/b.wav", "/xn.wav"),
            *("/x/m/a.wav", "m/b.wav", "/xm.wav"),
            *("/y/n/a.wav", "/y/n/b.wav", "/yn.wav"),
        ]


def test_rows_by_number_and_by_time(made):
    folder, vectors = made
    index = WindowIndex(folder)
    row = index.row_at("b.wav", 12.7, 2)  # in the file, of which b.wav begins at 2.5 s
    assert (row.recording, row.start, row.end, row.channel) == ("b.wav", 10.0, 11.0, 2)
    np.testing.assert_array_equal(index.vector(row.row), np.float16(vectors[120, 2]))
    assert index.row(row.row) == row
    assert index.row_at("/data/b.wav", 12.7, 2) == row
    assert index.row_at("b.wav", 200.0) is None
    # Any time in a.wav, whose last window is from 49.5 to 50.5 s.
    assert index.row_at("a.wav", 50.4).start == index.row_at("a.wav", 50.5).start == 49.5
    assert index.row_at("a.wav", 50.51) is index.row_at("a.wav", -0.51) is None
    # What is found is found again by what is shown of it.
    for found in index.search(vectors[120, 2], 5):
        shown = (found.recording, in_file(found)[0], found.channel)
        assert index.row_at(*shown)._replace(score=found.score) == found
    assert index.row_at("c.wav", 0.0) is None
    for number in (9999, 10**22):
        with pytest.raises(InputError, match=f"has no row {number}"):
            index.row(number)
    assert row_of(index, str(row.row)) == row_of(index, str(row.row), 2) == row
    assert row_of(index, str(row.row), 1) == index.row_at("b.wav", 12.5, 1)
    with pytest.raises(InputError, match=r"no row for channel 9 of a window of b\.wav"):
        row_of(index, str(row.row), 9)


def test_queries_that_cannot_be(made):
    index = WindowIndex(made[0])
    for query in (np.zeros(DIM), np.full(DIM, np.nan), np.ones(3)):
        with pytest.raises(InputError, match="expected one of 16 finite values"):
            index.search(query, 5)
    with pytest.raises(ValueError, match="rows='all': expected one of mixture, channels, both"):
        index.search(np.ones(DIM), 5, rows="all")


def test_what_is_no_index(tmp_path):
    with pytest.raises(InputError, match=r"holds no hoplite\.sqlite"):
        WindowIndex(tmp_path)
    (tmp_path / "hoplite.sqlite").write_text("no database at all, but long enough to be one")
    with pytest.raises(InputError, match="cannot be read"):
        WindowIndex(tmp_path)
    with pytest.raises(InputError, match="is not a database"), WindowStore(tmp_path, {}):
        pass
    (tmp_path / "hoplite.sqlite").unlink()
    with WindowStore(tmp_path, {}) as store:
        pass
    with pytest.raises(InputError, match="is not complete"):
        WindowIndex(tmp_path)
    with store:
        store.set_metadata(CONFIG_KEY, vectors_config(DIM))
    with pytest.raises(InputError, match=r"usearch.index: does not exist"):
        WindowIndex(tmp_path)
    (tmp_path / "usearch.index").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"usearch.index: "):
        WindowIndex(tmp_path)


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("20240131_061500.WAV", "2024-01-31T06:15:00"),
        ("site/SM4_20240131_061500.wav", "2024-01-31T06:15:00"),
        ("20240231_061500.wav", None),
        ("site/5E90A4D4.WAV", "2020-04-10T16:54:44"),
        ("12345678.wav", None),  # 1979
        ("5E90A4D4.flac", None),
        ("120240131_061500.wav", None),
        ("a.wav", None),
    ],
)
def test_times_in_names(name, time):
    assert time_in(name) == time


def test_clips_of_a_recording_with_a_long_name(made, tmp_path):
    name = 80 * "音" + ".wav"  # 244 bytes
    soundfile.write(tmp_path / name, np.linspace(-0.5, 0.5, 8000), 8000)
    row = (
        WindowIndex(made[0])
        .row(1)
        ._replace(
            recording=name, path=str(tmp_path / name), start=0.0, end=0.5, channel=0, offset=0.0
        )
    )
    assert write_results(tmp_path / "clips", [row], "title") == []
    (clip,) = (tmp_path / "clips").iterdir()
    assert len(soundfile.read(clip)[0]) == 4000
