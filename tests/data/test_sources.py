"""What a string means as clips, and what users meet who name them."""

import numpy as np
import pytest
import soundfile

from sepssl.data.clips import Clips, InMemory, Joined, Skipped, Subset, report_skipped
from sepssl.data.fuss import FussFolder
from sepssl.data.labels import NoLabels
from sepssl.data.scenes import SceneConfig, make_scene
from sepssl.data.segments import Segments
from sepssl.data.sources import Scenes, open_clips
from sepssl.data.splits import assigned_splits
from sepssl.errors import InputError

RATE = 8000


def write(path, seconds=1.0, seed=0, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = 0.1 * np.random.default_rng(seed).normal(size=round(seconds * rate))
    soundfile.write(path, sound, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return sound.astype(np.float32)


def test_scenes(tmp_path, monkeypatch):
    config = SceneConfig(duration=1.0, ambience_range_db=None)
    scenes = Scenes({"train": 3, "test": 2}, seed=4, config=config)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "scenes" / "a.wav")
    clips = open_clips("scenes", 16000, scenes=scenes)
    assert clips.splits == ["train"] * 3 + ["test"] * 2
    for index, (split, number) in enumerate(
        [("train", 0), ("train", 1), ("train", 2), ("test", 0)]
    ):
        scene = make_scene(config, 4, split, number)
        np.testing.assert_array_equal(clips.read(index), scene.mixture)
        np.testing.assert_array_equal(clips.read(index, 100, 50), scene.mixture[100:150])
        np.testing.assert_array_equal(clips.labels[index], scene.labels)
        mixture, sources = clips.read_with_sources(index)
        np.testing.assert_array_equal(mixture, scene.mixture)
        np.testing.assert_array_equal(sources, scene.sources[: scene.num_sources])
    assert open_clips("scenes", 22050, scenes=scenes).num_samples(0) == 22050
    assert open_clips("./scenes", RATE).names == ["a.wav"]  # a folder of that name


def test_one_file(tmp_path):
    sound = write(tmp_path / "a.wav")
    (tmp_path / "labels.csv").write_text("nothing to do with it")
    write(tmp_path / "b.wav")
    clips = open_clips(tmp_path / "a.wav", RATE)
    assert clips.names == ["a.wav"]
    np.testing.assert_array_equal(clips.read(0), sound)
    (tmp_path / "c.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"c\.wav: is not readable as sound"):
        open_clips(tmp_path / "c.wav", RATE)
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(InputError, match=r"text\.txt: has the suffix '\.txt'"):
        open_clips(tmp_path / "text.txt", RATE)


@pytest.mark.parametrize("spec", ["", "missing", "missing/a.wav", "missing.csv"])
def test_nothing_of_that_name(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r'; expected a sound file, a folder, a manifest .* "scenes"'
    ):
        open_clips(spec, RATE)


def test_esc50_as_it_is_published(tmp_path):
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for i in range(10):
        name = f"{i % 5 + 1}-{i}-A-{i % 2}.wav"
        write(tmp_path / "audio" / name, seed=i)
        rows.append(f"{name},{i % 5 + 1},{i % 2},{('dog', 'rain')[i % 2]},False,{i},A")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join(rows))
    (tmp_path / "README.md").write_text("ESC-50")
    clips = open_clips(tmp_path, RATE, labels=True)
    assert len(clips) == 10
    assert clips.class_names == ["dog", "rain"]
    for name, fold, labels in zip(clips.names, clips.folds, clips.labels, strict=True):
        assert name.startswith(f"audio/{fold}-")
        assert clips.class_names[int(name[-5])] == clips.class_names[labels.argmax()]
    roles = dict(zip(clips.folds, assigned_splits(clips), strict=True))
    assert roles == {"1": "train", "2": "train", "3": "train", "4": "validation", "5": "test"}


def test_a_labels_file_in_the_layout_of_a_copy_of_esc50(tmp_path):
    for i in range(4):
        write(tmp_path / "audio" / f"{i}.flac", seed=i)
    rows = [f"audio/{i}.flac,{'ab'[i % 2]},{i + 1},true,CC0" for i in range(4)]
    header = "filename,labels,fold,esc10,licence"
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]))
    (tmp_path / "LICENSE").write_text("CC")
    np.savez(tmp_path / "embeddings.npz", x=np.zeros(3))
    clips = open_clips(tmp_path, RATE, labels=True)
    assert clips.folds == ["1", "2", "3", "4"]
    assert clips.skipped == []
    np.testing.assert_array_equal(clips.labels.argmax(axis=1), [0, 1, 0, 1])


def test_a_manifest_of_files_and_parts(tmp_path):
    whole = write(tmp_path / "x" / "long.wav", 6.0)
    short = write(tmp_path / "short.flac", 1.0, rate=16000)
    (tmp_path / "x" / "clips.CSV").write_text(
        "start,path,duration,labels,note,split,fold\n"
        "1.5,long.wav,2,a;b,,train,1\n"
        ",../short.flac,,b,,test,2\n"
        "5,long.wav,,,hello,,1\n"
        "0,./missing.wav,,c,,train,\n"
        "5,long.wav,1.05,a,,,\n".replace("5,long.wav,1.05", "4.9,long.wav,1.15")
    )
    clips = open_clips(tmp_path / "x" / "clips.CSV", RATE)
    assert clips.names == [
        "long.wav#1.50-3.50", "../short.flac", "long.wav#5.00", "long.wav#4.90-6.05"
    ]  # fmt: skip
    assert clips.recordings == ["long.wav", "../short.flac", "long.wav", "long.wav"]
    assert clips.splits == ["train", "test", "", ""]
    assert clips.folds == ["1", "2", "1", ""]
    spans = [whole[12000:28000], None, whole[40000:], whole[39200:]]
    for index, expected in enumerate(spans):
        found = clips.read(index)
        assert len(found) == clips.num_samples(index)
        if expected is None:
            assert abs(len(found) - len(short) // 2) <= 1
        else:
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(clips.read(index, 100, 300), expected[100:400])
            for opened in (clips, open_clips(tmp_path / "x" / "clips.CSV", 16000)):
                stream = opened.stream(index)
                assert (stream.sample_rate, stream.subtype) == (RATE, "FLOAT")
                np.testing.assert_array_equal(np.concatenate(list(stream.blocks)), expected)
    ((name, reason),) = clips.skipped
    assert name == "missing.wav"
    assert "x/missing.wav: does not exist" in reason
    labelled = open_clips(tmp_path / "x" / "clips.CSV", RATE, labels=True)
    assert labelled.class_names == ["a", "b", "c"]
    np.testing.assert_array_equal(labelled.labels, [[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]])
    assert labelled.recordings == clips.recordings
    parts = Segments(labelled, 1.0)
    assert parts.names[:2] == ["long.wav#1.50-3.50#0.00", "long.wav#1.50-3.50#1.00"]
    assert parts.recordings[:3] == ["long.wav", "long.wav", "../short.flac"]
    np.testing.assert_array_equal(parts.read(1), whole[20000:28000])
    np.testing.assert_array_equal(parts.labels[1], [1, 1, 0])


def test_parts_of_a_file_that_start_together_or_almost(tmp_path):
    sound = write(tmp_path / "a.wav", 2.0)
    rows = ["0.5,1", "0.5,0.25", "0.5,", "0.505,1", "0.5001,", "0,", "0,0.1", "1.5,0.100001"]
    (tmp_path / "clips.csv").write_text(
        "\n".join(["path,start,duration"] + [f"a.wav,{r}" for r in rows])
    )
    clips = open_clips(tmp_path / "clips.csv", RATE)
    assert clips.names == [
        "a.wav#0.50-1.50", "a.wav#0.50-0.75", "a.wav#0.50", "a.wav#0.505-1.505", "a.wav#0.5001",
        "a.wav", "a.wav#0.00-0.10", "a.wav#1.50-1.600001",
    ]  # fmt: skip
    first, last = [4000, 4000, 4000, 4040, 4001, 0, 0, 12000], [12000, 6000, 16000, 12040, 16000]
    for index, (start, end) in enumerate(zip(first, [*last, 16000, 800, 12800], strict=True)):
        np.testing.assert_array_equal(clips.read(index), sound[start:end])
    assert len({clips.key(index) for index in range(8)}) == 8


def test_parts_that_end_at_a_time(tmp_path):
    sound = write(tmp_path / "a.wav", 2.0)
    write(tmp_path / "b.wav")
    rows = ["a.wav,0.1,0.3,", "a.wav,,1,", "a.wav,0.5,,1", "a.wav,0.6,1.6,1.0004", "b.wav,,,"]
    (tmp_path / "clips.csv").write_text("\n".join(["path,start,end,duration", *rows]))
    clips = open_clips(tmp_path / "clips.csv", RATE)
    assert clips.names == [
        "a.wav#0.10-0.30", "a.wav#0.00-1.00", "a.wav#0.50-1.50", "a.wav#0.60-1.6004", "b.wav",
    ]  # fmt: skip
    for index, (start, end) in enumerate([(800, 2400), (0, 8000), (4000, 12000), (4800, 12803)]):
        np.testing.assert_array_equal(clips.read(index), sound[start:end])
    (tmp_path / "durations.csv").write_text("path,start,duration\na.wav,0.1,0.2\n")
    alike = open_clips(tmp_path / "durations.csv", RATE)
    assert alike.key(0) == clips.key(0)


def test_a_silent_part_is_found_out_while_it_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.repeat([0.0, 0.5], RATE), RATE)
    (tmp_path / "clips.csv").write_text("path,start,duration\na.wav,0,1\na.wav,0.5,1\n")
    clips = open_clips(tmp_path / "clips.csv", RATE)
    with pytest.raises(InputError, match=r"a\.wav#0\.00-1\.00: is silent; expected sound above"):
        list(clips.stream(0).blocks)
    assert np.concatenate(list(clips.stream(1).blocks)).tolist() == [0.0] * 4000 + [0.5] * 4000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no header; expected a CSV file with the column path"),
        ("file,start\na.wav,0\n", "has the columns file, start; expected a CSV file"),
        ("path\n", "holds no row"),
        ("path,start\na.wav,0\n,1\n", "line 3: names no file"),
        ("path,start\na.wav,soon\n", "line 2: start is 'soon'; expected seconds, 0 or more"),
        ("path,start\na.wav,-1\n", "line 2: start is '-1'"),
        ("path,duration\na.wav,inf\n", "line 2: duration is 'inf'"),
        ("path,duration\na.wav,0\n", "line 2: has the duration 0"),
        ("path,start,end\na.wav,1,1\n", "line 2: ends at 1 s; expected an end after its start"),
        ("path,start,end\na.wav,,0\n", "line 2: ends at 0 s; expected an end after its start, 0 s"),
        ("path,end\na.wav,late\n", "line 2: end is 'late'; expected seconds, 0 or more"),
        ("path,start,end,duration\na.wav,0.1,0.5,0.5\n", "line 2: has the end 0.5 and the duration "
         "0.5 from 0.1 s, which differ; expected one of them"),
        ("path,labels\na.wav,x,y\n", "line 2: has more fields than the header"),
        ("path,start\na.wav,1\na.wav,1\n", "line 3: names 'a.wav#1.00' again"),
        ("path,split\na.wav,spare\n", "line 2: names the split 'spare'"),
        ("path,start,duration\na.wav,0.5,1\n", "a.wav: is 1.000 s long; expected a recording that "
         "holds 0.5 s to 1.5 s"),
        ("path,start,end\na.wav,0.5,1.5\n", "expected a recording that holds 0.5 s to 1.5 s"),
        ("path,start\na.wav,1\n", "is 1.000 s long; expected a recording that holds 1 s"),
    ],
)  # fmt: skip
def test_bad_manifests(text, says, tmp_path):
    write(tmp_path / "a.wav")
    (tmp_path / "clips.csv").write_text(text)
    with pytest.raises(InputError) as error:
        open_clips(tmp_path / "clips.csv", RATE)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_that_are_needed_and_not_there(tmp_path):
    write(tmp_path / "a.wav")
    with pytest.raises(NoLabels, match=r"there is no labels\.csv; expected labels in that file"):
        open_clips(tmp_path, RATE, labels=True)
    (tmp_path / "clips.csv").write_text("path\na.wav\n")
    with pytest.raises(NoLabels, match=r"clips\.csv: has no labels; expected a column labels"):
        open_clips(tmp_path / "clips.csv", RATE, labels=True)


def test_a_fuss_layout(tmp_path):
    sources = [write(tmp_path / "m_sources" / f"{i}.wav", seed=i) for i in range(2)]
    soundfile.write(tmp_path / "m.wav", sum(sources), RATE, subtype="FLOAT")
    write(tmp_path / "alone.wav")
    with_sources = open_clips(tmp_path, RATE, sources=True)
    assert isinstance(with_sources, FussFolder)
    assert with_sources.names == ["m.wav"]
    np.testing.assert_array_equal(with_sources.read_with_sources(0)[1], sources)
    for option in ({"speed": 0.5}, {"allow_truncated": True}, {"select": lambda paths: paths}):
        with pytest.raises(InputError, match="laid out like FUSS, with sources; expected neither"):
            open_clips(tmp_path, RATE, sources=True, **option)
    clips = open_clips(tmp_path, RATE)
    assert clips.names == ["alone.wav", "m.wav"]
    assert not clips.has_sources
    with pytest.raises(InputError, match="its true sources are not known"):
        clips.read_with_sources(0)
    assert clips.skipped == []
    write(tmp_path / "other" / "b.wav")
    assert not open_clips(tmp_path / "other", RATE, sources=True).has_sources


def test_decoders(tmp_path):
    sound = write(tmp_path / "float.wav")
    soundfile.write(tmp_path / "pcm.wav", sound, RATE, subtype="PCM_16")
    plain = open_clips(tmp_path / "pcm.wav", RATE)
    graph = open_clips(tmp_path / "pcm.wav", RATE, decoder="tensorflow")
    np.testing.assert_array_equal(graph.read(0), plain.read(0))
    assert plain.origin != graph.origin
    np.testing.assert_array_equal(next(graph.stream(0).blocks), plain.read(0))
    with pytest.raises(InputError, match="does not read"):
        open_clips(tmp_path / "float.wav", RATE, decoder="tensorflow").read(0)
    with pytest.raises(InputError, match="decoder is 'ffmpeg'; expected one of"):
        open_clips(tmp_path, RATE, decoder="ffmpeg")


class Ramps(Clips):
    """The clips of a user: clip i is i, i + 1, ..."""

    origin = "ramps"

    def __init__(self, count):
        self.names = [f"ramp{i}" for i in range(count)]
        self.skipped = [Skipped("none", "none: is none")]
        self.sample_rate = RATE
        self.labels = np.eye(count, dtype=np.int8)
        self.class_names = self.names
        self.reads = 0

    def num_samples(self, index):
        return 10

    def read(self, index, start=0, length=None):
        self.reads += 1
        return np.arange(index + start, index + (10 if length is None else start + length))


def test_sources_made_of_others():
    ramps = Ramps(5)
    subset = Subset(ramps, [3, 1])
    assert (subset.names, len(subset)) == (["ramp3", "ramp1"], 2)
    assert subset.read(0, 2, 3).tolist() == [5, 6, 7]
    np.testing.assert_array_equal(subset.labels, ramps.labels[[3, 1]])
    assert subset.splits is None
    assert subset.skipped == ramps.skipped
    joined = Joined({"train": ramps, "dev": subset})
    assert len(joined) == 7
    assert joined.splits == ["train"] * 5 + ["dev"] * 2
    assert joined.read(6)[0] == 1
    stream = joined.stream(6)
    assert (stream.sample_rate, next(stream.blocks).tolist()) == (RATE, list(range(1, 11)))
    assert joined.path(6) is None
    kept = InMemory(ramps)
    for _ in range(3):
        assert kept.read(4, 1, 2).tolist() == [5, 6]
        assert kept.read(2).tolist() == list(range(2, 12))
    assert ramps.reads == 5  # three of them above
    assert (ramps.stamp(0), ramps.key(0), ramps.recordings) == ("", "", None)


def test_the_report_is_one_line_each(capsys):
    report_skipped([Skipped("a\nb.wav", "/x/a\nb.wav: is empty"), Skipped("c", "/x/c: \udcff")])
    assert capsys.readouterr().out.splitlines() == [
        "skipped 2:",
        "  /x/a\\nb.wav: is empty",
        "  /x/c: \\udcff",
    ]
    report_skipped([])
    assert capsys.readouterr().out == ""
