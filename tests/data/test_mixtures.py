"""Scenes mixed from isolated sounds, checked against the sounds that they are made of."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
from absl import flags
from scipy import signal

from sepssl.cli import mix
from sepssl.configs import separator_small
from sepssl.data.clips import Subset
from sepssl.data.labels import NoLabels
from sepssl.data.mixtures import MixtureConfig, Mixtures
from sepssl.data.scenes import active_rms
from sepssl.data.sources import open_clips
from sepssl.data.store import store_clips
from sepssl.errors import InputError
from sepssl.training.clips import mixtures as training_mixtures

RATE = 8000
ALL = {"train": ("1",)}
CLASSES = ("bell", "cat", "dog", "rain", "siren")


def write(path, sound):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, RATE, subtype="FLOAT")
    return np.asarray(sound, np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five classes, six folds: a recording of each in each; `sounds` has them by name."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    lines, sounds = ["filename,labels,fold"], {}
    for fold in "123456":
        for name in CLASSES:
            file = f"{fold}-{name}.wav"
            sounds[file] = write(folder / file, rng.uniform(-0.3, 0.3, 2 * RATE))
            lines.append(f"{file},{name},{fold}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder, sounds


def mixed(folder, counts=None, seed=0, test_fold="", folds=None, **config):
    mixtures = Mixtures(
        counts or {"train": 40},
        seed,
        MixtureConfig(**{"duration": 1.0, "part_seconds": (0.2, 0.8)} | config),
        test_fold,
        folds or {},
    )
    return open_clips(f"mix:{folder}", RATE, mixtures=mixtures)


def test_a_source_is_a_part_of_its_recording_at_its_level(folder):
    folder, sounds = folder
    clips = mixed(folder)
    fade = RATE // 100
    for index in range(10):
        scene = clips.scene(index)
        np.testing.assert_allclose(scene.mixture, scene.sources.sum(axis=0), atol=1e-6)
        levels = []
        for source, name, start, onset, level in zip(
            scene.sources, scene.names, scene.starts, scene.onsets, scene.levels_db, strict=True
        ):
            heard = np.flatnonzero(source)
            start, onset = round(start * RATE), round(onset * RATE)
            assert onset <= heard[0] <= onset + 2
            assert onset + 0.2 * RATE - 3 <= heard[-1]
            length = heard[-1] + 1 - onset
            assert length <= 0.8 * RATE
            inside = slice(onset + fade, onset + length - fade - 2)
            recorded = sounds[name][start + fade : start + length - fade - 2]
            gain = source[inside] @ recorded / (recorded @ recorded)
            np.testing.assert_allclose(source[inside], gain * recorded, atol=1e-6)
            assert -12 <= level <= 6
            levels.append(20 * np.log10(active_rms(source, RATE) / 0.1) - level)
        np.testing.assert_allclose(levels, levels[0], atol=1e-4)  # one factor for all
        assert levels[0] < 1e-4
        assert np.abs(scene.mixture).max() <= 0.98 + 1e-6


def test_a_part_is_faded_in_and_out(tmp_path):
    write(tmp_path / "a.wav", np.full(2 * RATE, 0.3))
    (tmp_path / "labels.csv").write_text("filename,labels,fold\na.wav,a,1")
    source = mixed(tmp_path, folds=ALL).scene(0).mixture
    heard = np.flatnonzero(source)
    part = source[heard[0] : heard[-1] + 1] / source.max()
    ramp = np.arange(1, 80) / 80  # 10 ms, the zero at its end not being heard
    expected = np.concatenate([ramp, np.ones(len(part) - 158), ramp[::-1]])
    np.testing.assert_allclose(part, expected, atol=1e-6)


def test_a_scene_is_a_function_of_seed_split_and_number(folder, tmp_path):
    folder, _ = folder
    few, many = mixed(folder, {"train": 3}), mixed(folder, {"train": 9, "validation": 2})
    assert many.names[:3] == few.names
    np.testing.assert_array_equal(few.read(2), many.read(2))
    np.testing.assert_array_equal(few.read(2, 100, 50), few.read(2)[100:150])
    np.testing.assert_array_equal(few.read_with_sources(1)[1], few.scene(1).sources)
    other = mixed(folder, {"train": 3}, seed=1)
    assert other.names[0] != few.names[0]
    assert not np.array_equal(other.read(0), few.read(0))
    assert not np.array_equal(many.read(0), many.read(9))
    store = store_clips(many, tmp_path, "rows")
    assert len(store) == 11
    np.testing.assert_allclose(store.read(4)[0], many.read(4), atol=1e-4)


def test_no_recording_is_in_two_splits(folder):
    folder, _ = folder
    counts = {"train": 60, "validation": 30, "test": 30}

    def folds(clips):
        names = [[n for i in range(len(p)) for n in p.scene(i).names] for p in clips.parts]
        return [{name[0] for name in part} for part in names]

    assert folds(mixed(folder, counts)) == [set("1234"), {"5"}, {"6"}]
    assert folds(mixed(folder, counts, test_fold="3")) == [set("1456"), {"2"}, {"3"}]
    chosen = {"train": ("1", "2"), "validation": ("4",), "test": ("5", "6")}
    assert folds(mixed(folder, counts, folds=chosen)) == [set("12"), {"4"}, set("56")]
    # A split without folds of its own has what the others leave of it.
    found = folds(mixed(folder, counts, folds={"train": ("3",)}, test_fold="1"))
    assert found == [{"3"}, {"6"}, {"1"}]
    with pytest.raises(InputError, match="none of 30 recordings falls into the test split"):
        mixed(folder, counts, folds={"train": ("1", "6")})


def test_numbers_and_classes_of_sources(folder):
    folder, _ = folder
    probabilities = (0.1, 0.5, 0.0, 0.4)
    clips = mixed(folder, {"train": 600}, source_count_probabilities=probabilities)
    labels = clips.labels
    assert labels.shape == (600, 5)
    counts = np.bincount(labels.sum(axis=1), minlength=5)[1:]
    np.testing.assert_allclose(counts / 600, probabilities, atol=0.06)
    for index in range(20):
        heard = sorted(name[2:-4] for name in clips.scene(index).names)
        assert heard == [c for c, there in zip(CLASSES, labels[index], strict=True) if there]
    shares = labels.sum(axis=0) / labels.sum()
    np.testing.assert_allclose(shares, 0.2, atol=0.03)


def test_classes_of_a_scene_are_of_one_group(folder):
    folder, _ = folder
    counts = {"train": 300, "test": 300}
    clips = mixed(folder, counts, groups=3, group_size=2, source_count_probabilities=(0.3, 0.7))
    pairs = [
        {tuple(np.flatnonzero(row)) for row in part.labels if row.sum() == 2}
        for part in clips.parts
    ]
    assert pairs[0] == pairs[1]
    assert len(pairs[0]) == 3
    assert {c for pair in pairs[0] for c in pair} == set(range(5))


def test_a_background_is_heard_throughout(folder):
    folder, sounds = folder
    clips = mixed(folder, duration=3.0, backgrounds=("rain",), background_range_db=(-3.0, -3.0))
    for index in range(8):
        scene = clips.scene(index)
        assert scene.background
        assert [name[2:-4] == "rain" for name in scene.names] == [True] + [False] * (
            len(scene.names) - 1
        )
        rain, recorded = scene.sources[0], sounds[scene.names[0]]
        assert scene.levels_db[0] == -3.0
        whole = np.concatenate([recorded, recorded[:RATE]])  # 2 s, repeated to 3
        gain = rain @ whole / (whole @ whole)
        np.testing.assert_allclose(rain, gain * whole, atol=1e-6)


@pytest.mark.parametrize("hiss", [0.0, 1e-3])
def test_a_background_of_long_pauses_is_heard(tmp_path, hiss):
    """0.5 s of sound in 9: most stretches of 1 s are a pause, silent or 60 dB below."""
    sound = hiss * np.random.default_rng(2).normal(size=9 * RATE)
    sound[7 * RATE : 7 * RATE + RATE // 2] = np.random.default_rng(0).normal(size=RATE // 2)
    write(tmp_path / "bird" / "a.wav", sound)
    write(tmp_path / "dog" / "a.wav", np.random.default_rng(1).normal(size=RATE))
    lines = ["filename,labels,fold", "bird/a.wav,bird,1", "dog/a.wav,dog,1"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    clips = mixed(tmp_path, {"train": 12}, folds=ALL, backgrounds=("bird",), **{
        "level_range_db": (0.0, 0.0), "background_range_db": (0.0, 0.0)
    })  # fmt: skip
    for index in range(12):
        bird = clips.scene(index).sources[0]
        assert 0.03 < active_rms(bird, RATE) < 0.11
        frames = np.square(bird).reshape(-1, 250).mean(axis=1)
        assert np.mean(frames > 1e-4 * frames.max()) < 0.8  # sound, and pause around it


def test_a_click_does_not_draw_a_background_to_it(tmp_path):
    """Steady rain with a click 30 dB above it: where a scene is cut from it, chance decides."""
    rain = 0.01 * np.random.default_rng(0).normal(size=20 * RATE)
    rain[12 * RATE : 12 * RATE + 200] *= 30
    write(tmp_path / "rain" / "a.wav", rain)
    write(tmp_path / "dog" / "a.wav", np.random.default_rng(1).normal(size=RATE))
    lines = ["filename,labels,fold", "rain/a.wav,rain,1", "dog/a.wav,dog,1"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    clips = mixed(tmp_path, {"train": 60}, folds=ALL, backgrounds=("rain",))
    starts = np.array([clips.scene(index).starts[0] for index in range(60)])
    assert np.mean((starts > 11) & (starts < 12.1)) < 0.2  # 1 of 19 s


def test_a_room_adds_its_reflections(folder, tmp_path):
    folder, _ = folder
    response = np.zeros(600)
    response[[100, 400]] = 0.5, 0.2  # a reflection after 300 samples
    write(tmp_path / "room.wav", response)
    dry = mixed(folder, {"train": 3})
    wet = mixed(folder, {"train": 3}, rooms=str(tmp_path))
    for index in range(3):
        scene, expected = wet.scene(index), dry.scene(index).sources.astype(np.float64)
        assert scene.room == "room.wav"
        assert scene.names == dry.scene(index).names
        expected[:, 300:] += 0.4 * expected[:, :-300].copy()
        for source, heard in zip(scene.sources, expected, strict=True):
            heard = np.concatenate(
                [np.zeros(8), heard[:-8]]
            )  # 1 ms is kept before the direct sound
            gain = source @ heard / (heard @ heard)
            np.testing.assert_allclose(source, gain * heard, atol=1e-5)
    assert dry.origin != wet.origin


def test_no_room_is_in_two_splits(folder, tmp_path):
    folder, _ = folder
    for number in range(20):
        write(tmp_path / f"{number}.wav", [1.0, 0.1])
    clips = mixed(folder, {"train": 40, "validation": 20, "test": 20}, rooms=str(tmp_path))
    heard = [{part.scene(i).room for i in range(len(part))} for part in clips.parts]
    assert min(map(len, heard)) > 1
    assert sum(map(len, heard)) == len(set.union(*heard))


def test_a_microphone_colours_all_sources_alike(folder):
    folder, _ = folder
    dry, clips = mixed(folder), mixed(folder, microphone=True)
    index = next(i for i in range(40) if len(dry.scene(i).names) == 3)
    before = np.abs(np.fft.rfft(dry.scene(index).sources, 4 * RATE))
    after = np.abs(np.fft.rfft(clips.scene(index).sources, 4 * RATE))
    ratios = [
        20 * np.log10(np.sqrt(np.add.reduceat(a**2, range(400, 16000, 1300)) /
                              np.add.reduceat(b**2, range(400, 16000, 1300))))
        for a, b in zip(after, before, strict=True)
    ]  # fmt: skip
    ratios = np.array(ratios) - np.mean(ratios, axis=1, keepdims=True)
    assert np.ptp(ratios[0]) > 3
    np.testing.assert_allclose(ratios, np.broadcast_to(ratios[0], ratios.shape), atol=0.7)


def test_a_sound_is_heard_at_a_drawn_speed(tmp_path):
    """A chirp from 200 to 1200 Hz tells where its part was cut, and how fast it was played."""
    seconds = np.arange(4 * RATE) / RATE
    write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * (200 * seconds + 125 * seconds**2)))
    (tmp_path / "labels.csv").write_text("filename,labels,fold\na.wav,chirp,1")
    options = {
        "folds": ALL,
        "source_count_probabilities": (1.0,),
        "part_seconds": (0.3, 0.5),
        "level_range_db": (0.0, 0.0),
    }
    clips = mixed(tmp_path, speed_range=(0.5, 2.0), **options)
    speeds = []
    for index in range(40):
        scene = clips.scene(index)
        heard = np.flatnonzero(scene.mixture)
        # 40 ms behind the fade; counted from the onset as the scene has it.
        cycles = np.unwrap(np.angle(signal.hilbert(scene.mixture[heard[0] : heard[-1] + 1])))
        time, speed = np.arange(len(cycles)) / RATE, scene.speeds[0]
        inner = (time > 0.05) & (time < time[-1] - 0.05)
        slope, frequency = np.polyfit(time[inner], np.gradient(cycles)[inner] * RATE / 2 / np.pi, 1)
        assert slope == pytest.approx(250 * speed**2, rel=0.05)
        assert frequency == pytest.approx(speed * (200 + 250 * scene.starts[0]), rel=0.02)
        assert 0.3 * RATE - 3 <= len(cycles) <= 0.5 * RATE + 3  # in the scene, whatever the speed
        speeds.append(speed)
    assert np.mean(np.log2(speeds)) == pytest.approx(0, abs=0.3)  # as often slower as faster
    assert min(speeds) < 0.6
    assert max(speeds) > 1.7
    assert mixed(tmp_path, **options).origin != clips.origin


def test_a_sound_that_would_rise_out_of_the_band_keeps_its_speed(tmp_path):
    """Nor may what is left be what was beside it: noise 12 dB below it."""
    tone = 0.5 * np.sin(2 * np.pi * 3000 * np.arange(2 * RATE) / RATE)
    noise = 0.25 * np.sqrt(0.125) * np.random.default_rng(0).normal(size=len(tone))
    write(tmp_path / "a.wav", tone + noise)
    (tmp_path / "labels.csv").write_text("filename,labels,fold\na.wav,tone,1")
    scene = mixed(tmp_path, folds=ALL, speed_range=(2.0, 2.0)).scene(0)
    spectrum = np.abs(np.fft.rfft(scene.mixture))
    assert scene.speeds == [1.0]
    assert np.argmax(spectrum) == pytest.approx(3000, abs=2)


def test_a_slower_sound_has_what_was_above_the_band(tmp_path):
    """White noise of 0 to 8 kHz, at half the speed: 0 to 4 kHz, the whole band at 8 kHz.

    The recording of a minute is cut into parts. At half the speed its samples, at 16 kHz, are those
    of the scene.
    """
    noise = 0.1 * np.random.default_rng(0).normal(size=120 * RATE)
    soundfile.write(tmp_path / "a.wav", noise, 2 * RATE, subtype="FLOAT")
    (tmp_path / "labels.csv").write_text("filename,labels,fold\na.wav,noise,1")
    options = {"folds": ALL, "duration": 4.0, "part_seconds": (3.0, 3.5)}
    scene = mixed(tmp_path, speed_range=(0.5, 0.5), **options).scene(0)
    frequencies, density = signal.welch(scene.mixture[np.flatnonzero(scene.mixture)], RATE)
    low = density[(frequencies > 500) & (frequencies < 1500)].mean()
    high = density[(frequencies > 2500) & (frequencies < 3500)].mean()
    assert scene.speeds == [0.5]
    assert 10 * np.log10(high / low) == pytest.approx(0, abs=1)
    part, _, start = scene.names[0].partition("#")
    onset, first = round(scene.onsets[0] * RATE), (float(start) + scene.starts[0]) * 2 * RATE
    heard = scene.mixture[onset + 200 : onset + 2 * RATE]
    recorded = noise[round(first) + 200 :][: len(heard)]
    assert part == "a.wav"
    assert np.corrcoef(heard, recorded)[0, 1] > 0.99


def test_silence_around_a_sound_is_left_out(tmp_path):
    sound = np.zeros(10 * RATE)
    sound[5 * RATE : 5 * RATE + 3000] = np.random.default_rng(0).normal(size=3000)
    write(tmp_path / "a.wav", sound)
    (tmp_path / "labels.csv").write_text("filename,labels,fold\na.wav,a,1")
    clips = mixed(tmp_path, {"train": 20}, folds=ALL, duration=4.0, part_seconds=(1.0, 4.0))
    for index in range(20):
        (start,) = clips.scene(index).starts
        assert 5 - 0.04 <= start <= 5.01
        assert 2900 <= np.count_nonzero(clips.read(index)) <= 3300


def test_unlabelled_sounds_are_classes_of_their_own(tmp_path):
    for number in range(30):
        write(tmp_path / f"{number}.wav", np.random.default_rng(number).normal(size=RATE) * 0.1)
    clips = mixed(tmp_path, {"train": 20})
    assert clips.labels is None
    with pytest.raises(NoLabels):
        clips.labelled()
    for index in range(20):
        assert len(set(clips.scene(index).names)) == len(clips.scene(index).names)
    with pytest.raises(InputError, match="has no labels; expected some, to draw groups"):
        mixed(tmp_path, groups=2)


def test_sources_have_no_label_in_common(tmp_path):
    lines = ["filename,labels,fold"]
    for number, labels in enumerate(["dog;park", "cat;park", "bird", "dog;bird"]):
        write(tmp_path / f"{number}.wav", np.random.default_rng(number).normal(size=RATE) * 0.1)
        lines.append(f"{number}.wav,{labels},1")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    clips = mixed(tmp_path, {"train": 60}, folds=ALL, source_count_probabilities=(0, 0, 1.0))
    found = {tuple(sorted(name[0] for name in clips.scene(i).names)) for i in range(60)}
    assert found == {("0", "2"), ("1", "2"), ("1", "3")}


@pytest.mark.parametrize("labelled", [True, False])
def test_unusable_recordings_give_way_to_others(tmp_path, labelled):
    """The last of three of a class is silent, the only one of another class is not a number."""
    lines = ["filename,labels,fold"]
    for name in ("a0", "a1", "a2", "b0", "c0", "c1", "d0"):
        write(tmp_path / f"{name}.wav", np.random.default_rng(int(name[1])).normal(size=RATE) * 0.1)
        lines.append(f"{name}.wav,{name[0]},1")
    if labelled:
        (tmp_path / "labels.csv").write_text("\n".join(lines))
    count, folds = 40, ALL if labelled else None
    good = mixed(tmp_path, {"train": count}, folds=folds)
    before = [good.scene(i).names for i in range(count)]
    drawn = sorted({name for names in before for name in names})  # unlabelled, some are for testing
    bad = ["a2.wav", "b0.wav"] if labelled else drawn[:2]
    write(tmp_path / bad[0], np.zeros(RATE))
    write(tmp_path / bad[1], np.full(RATE, np.nan))
    found = mixed(tmp_path, {"train": count}, folds=folds)
    assert not found.skipped
    after = [found.scene(i).names for i in range(count)]
    assert [entry.name for entry in found.skipped] == bad
    instead = {"a2.wav": "a0.wav"} if labelled else {}
    for index, (was, now) in enumerate(zip(before, after, strict=True)):
        kept = [instead.get(name, name) for name in was if name in instead or name not in bad]
        assert now[: len(kept)] == kept
        assert now
        assert not set(bad) & set(now)
        again = mixed(tmp_path, {"train": count}, folds=folds)
        assert again.scene(index).names == now  # whatever was drawn before
        if labelled:
            classes = [found.class_names[i] for i in np.flatnonzero(found.labels[index])]
            assert classes == sorted(name[0] for name in now)
    assert sum(was != now for was, now in zip(before, after, strict=True)) > 5
    for path in tmp_path.glob("*.wav"):
        write(path, np.zeros(RATE))
    silent = mixed(tmp_path, {"train": 1}, folds=folds)
    with pytest.raises(InputError, match=r"mix/train/0/000000: has no usable recording; the first"):
        silent.scene(0)
    assert not np.any(silent.labels)


def test_another_background_is_heard_for_one_that_cannot_be_used(tmp_path):
    lines = ["filename,labels,fold"]
    for number, name in enumerate(("rain", "wind", "cat", "dog")):
        sound = np.random.default_rng(number).normal(size=RATE) * (name != "wind")
        write(tmp_path / f"{name}.wav", sound * 0.1)
        lines.append(f"{name}.wav,{name},1")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    arguments = {"folds": ALL, "source_count_probabilities": (0.5, 0.5)}
    clips = mixed(tmp_path, {"train": 20}, backgrounds=("rain", "wind"), **arguments)
    for scene in map(clips.scene, range(20)):
        assert scene.background
        assert scene.names[0] == "rain.wav"
        assert not {"rain.wav", "wind.wav"} & set(scene.names[1:])
    clips = mixed(tmp_path, {"train": 20}, backgrounds=("wind",), **arguments)
    assert not any(clips.scene(index).background for index in range(20))


def test_sounds_that_cannot_be_used_are_listed_once(tmp_path):
    """Of several splits, and of parts of them; a file without sound at all is known before."""
    lines = ["filename,labels,fold"]
    for fold in "123":
        for name in "abc":
            sound = np.random.default_rng(ord(name)).normal(size=RATE) * 0.1
            write(tmp_path / f"{fold}{name}.wav", sound * (name != "b"))
            lines.append(f"{fold}{name}.wav,{name},{fold}")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "labels.csv").write_text("\n".join([*lines, "broken.wav,a,1"]))
    folds = {"train": ("1",), "validation": ("2",)}
    part = Subset(mixed(tmp_path, {"train": 20, "validation": 20}, folds=folds), range(5))
    assert [entry.name for entry in part.skipped] == ["broken.wav", "1b.wav", "2b.wav"]


def test_scenes_change_with_the_sounds(tmp_path):
    for number in range(3):
        write(tmp_path / f"c{number}" / "a.wav", np.random.default_rng(number).normal(size=RATE))
    lines = ["filename,labels,fold"] + [f"c{n}/a.wav,c{n},1" for n in range(3)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    before = mixed(tmp_path, {"train": 30}, folds=ALL)
    keys, names = [before.key(i) for i in range(30)], [before.scene(i).names for i in range(30)]
    write(tmp_path / "c1" / "a.wav", np.random.default_rng(9).normal(size=RATE))
    after = mixed(tmp_path, {"train": 30}, folds=ALL)
    assert after.origin == before.origin
    for index in range(30):
        assert (after.key(index) != keys[index]) == ("c1/a.wav" in names[index])
    write(tmp_path / "c3" / "a.wav", np.random.default_rng(3).normal(size=RATE))
    (tmp_path / "labels.csv").write_text("\n".join([*lines, "c3/a.wav,c3,1"]))
    assert mixed(tmp_path, {"train": 30}, folds=ALL).origin != before.origin


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folds": {"train": ("9",)}}, "has no fold '9'; expected some of 1, 2, 3, 4, 5, 6"),
        ({"folds": {"train": ("1",), "test": ("1",)}}, "fold '1' is named twice"),
        ({"backgrounds": ("wind",)}, r"no recording has the label 'wind' \(backgrounds\)"),
        ({"backgrounds": CLASSES}, "0 classes remain beside 5 of backgrounds"),
        ({"source_count_probabilities": (0.5, 0.4)}, "expected values of 0 or more with the sum 1"),
        ({"part_seconds": (2.0, 1.0)}, "expected two numbers of 0.1 or more, the lower first"),
        ({"part_seconds": (0.0, 1.0)}, "expected two numbers of 0.1 or more"),
        ({"level_range_db": (3.0,)}, "level_range_db .*expected two numbers"),
        ({"speed_range": (0.0, 1.0)}, r"speed_range \(0.0, 1.0\): expected two numbers from 0.1"),
        ({"speed_range": (2.0, 1.0)}, "the lower first"),
        ({"speed_range": (1.0,)}, "expected two numbers from 0.1 to 10"),
        ({"duration": 0.0}, "expected at least 0.1 seconds"),
        ({"groups": 2, "group_size": 3}, "expected at least the 4 sources"),
        ({"groups": -1}, "groups -1: expected 0 or more"),
        ({"seed": -1}, "seed -1: expected 0 or more"),
        ({"rooms": "none"}, "none: does not exist"),
    ],
)
def test_what_cannot_be(folder, arguments, message):
    with pytest.raises(InputError, match=message):
        mixed(folder[0], **arguments)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mix:", "expected mix: and a folder or a manifest of isolated sounds"),
        ("mix:scenes", "expected mix: and a folder"),
        ("mix:none", "none: does not exist"),
    ],
)
def test_specs_that_cannot_be(spec, message):
    with pytest.raises(InputError, match=message):
        open_clips(spec, RATE)


def test_origin_is_text(folder):
    json.dumps(mixed(folder[0]).origin)


def test_every_setting_reaches_the_scenes():
    """From the flags of sepssl-mix, and from the configuration of a training."""
    changed = MixtureConfig(
        sample_rate=RATE,
        duration=2.0,
        source_count_probabilities=(0.5, 0.5),
        part_seconds=(0.5, 1.0),
        level_range_db=(-3.0, 3.0),
        speed_range=(0.5, 2.0),
        groups=3,
        group_size=4,
        backgrounds=("rain", "wind"),
        background_range_db=(-6.0, -1.0),
        rooms="rooms",
        microphone=True,
    )
    fields = dataclasses.asdict(changed)
    assert not fields.items() & dataclasses.asdict(MixtureConfig()).items()
    own = {"sample_rate": "sample_rate", "duration": "seconds"}

    def text(value):
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    values = flags.FlagValues()
    mix.define_flags(values)
    values(
        ["sepssl-mix", "--input=a", "--output=b"]
        + [f"--{own.get(name, name)}={text(value)}" for name, value in fields.items()]
    )
    assert mix._config(values) == changed
    data = separator_small.get_config().data
    data.update(sample_rate=fields.pop("sample_rate"), clip_seconds=fields.pop("duration"))
    data.mix.update(fields | {"backgrounds": text(fields["backgrounds"])})
    assert training_mixtures(data).config == changed


def test_scenes_are_known_by_the_name_that_older_versions_gave_them(folder):
    """Half-made folders and trainings are continued: an option that is off changes nothing."""
    clips = mixed(folder[0])
    scene = clips.scene(3)  # as version 0.1.0 drew it
    assert scene.names == ["3-bell.wav", "3-siren.wav", "2-cat.wav", "1-dog.wav"]
    assert scene.starts == [0.633625, 0.080625, 0.00675, 1.238375]
    assert scene.onsets == [0.209875, 0.042, 0.22625, 0.09675]
    np.testing.assert_allclose(scene.levels_db, [4.0569, -2.0123, -7.4832, 3.2923], atol=1e-4)
    assert clips.origin.endswith(
        "MixtureConfig(sample_rate=8000, duration=1.0, source_count_probabilities=(0.2, 0.3, 0.3, "
        "0.2), part_seconds=(0.2, 0.8), level_range_db=(-12.0, 6.0), groups=0, group_size=8, "
        "backgrounds=(), background_range_db=(-12.0, 0.0), rooms='', microphone=False)"
    )
