import collections
import json

import numpy as np
import pytest
import soundfile

from sepssl.data.fuss import FussFolder
from sepssl.data.mixtures import MixtureConfig, Mixtures
from sepssl.data.sources import open_clips
from sepssl.errors import InputError
from sepssl.pipelines.embed import embed_recordings
from sepssl.pipelines.mix import write_mixtures
from sepssl.pipelines.separate import separate_recordings
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, Separator, STFTBasis

RATE = 8000


@pytest.fixture
def sounds(tmp_path):
    for number in range(12):
        sound = np.random.default_rng(number).uniform(-0.3, 0.3, RATE)
        path = tmp_path / "sounds" / f"class{number % 4}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound, RATE)
    return tmp_path / "sounds"


def opened(sounds, count, seed=0):
    config = MixtureConfig(duration=0.5, part_seconds=(0.2, 0.4), backgrounds=("class1",))
    return open_clips(f"mix:{sounds}", RATE, mixtures=Mixtures({"train": count}, seed, config))


def test_scenes_become_a_fuss_folder_that_grows(sounds, tmp_path):
    clips, output = opened(sounds, 4), tmp_path / "out"
    done = write_mixtures(clips, output, verbose=False)
    assert done == (4, 0, [])
    fuss = FussFolder(output, RATE)
    assert fuss.names == [f"{number:06d}.wav" for number in range(4)]
    labelled = open_clips(output, RATE, labels=True)
    for index in range(4):
        mixture, sources = fuss.read_with_sources(index)
        expected = clips.scene(index)
        np.testing.assert_allclose(mixture, expected.mixture, atol=0.51 / 32768)
        np.testing.assert_allclose(sources, expected.sources, atol=0.51 / 32768)
        made_of = json.loads((output / f"{index:06d}.json").read_text())
        assert [source["recording"] for source in made_of["sources"]] == expected.names
        files = sorted(p.name for p in (output / f"{index:06d}_sources").iterdir())
        assert files == [source["file"] for source in made_of["sources"]]
        assert files[0] == "background0_sound.wav"
        assert expected.names[0].startswith("class1/")
        heard = {labelled.class_names[c] for c in np.flatnonzero(labelled.labels[index])}
        assert heard == {name.split("/")[0] for name in expected.names}

    # Interrupted between the sources and the mixture of a scene, then with more of them.
    before = (output / "000001.wav").stat().st_mtime_ns
    (output / "000002.wav").unlink()
    assert write_mixtures(opened(sounds, 6), output, verbose=False) == (3, 3, [])
    assert (output / "000001.wav").stat().st_mtime_ns == before
    assert len(FussFolder(output, RATE).names) == 6
    assert len((output / "labels.csv").read_text().splitlines()) == 7
    (output / "2024-01-01.wav").touch()
    with pytest.raises(InputError, match="out: holds scene 5; expected num_scenes=6 or more, or"):
        write_mixtures(opened(sounds, 4), output, verbose=False)
    assert len((output / "labels.csv").read_text().splitlines()) == 7
    (output / "2024-01-01.wav").unlink()
    with pytest.raises(InputError, match="holds scenes of other settings or sounds"):
        write_mixtures(opened(sounds, 6, seed=1), output, verbose=False)


@pytest.mark.parametrize("labelled", [True, False])
def test_croissant_describes_the_scenes(sounds, tmp_path, labelled):
    clips, output = opened(sounds, 3), tmp_path / "out"
    if not labelled:
        config = MixtureConfig(duration=0.5, part_seconds=(0.2, 0.4), speed_range=(0.8, 1.25))
        mixtures = Mixtures({"train": 3}, config=config)
        for file in sounds.rglob("*.wav"):
            file.rename(sounds / file.name)
        clips = open_clips(f"mix:{sounds}", RATE, mixtures=mixtures)
    write_mixtures(clips, output, verbose=False)
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(output / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    assert len(dataset.metadata.record_sets) == 1 + labelled
    names = ("file", "recording", "start_seconds", "onset_seconds", "level_db")
    if not labelled:  # with speeds that vary
        names += ("speed",)
    found = collections.defaultdict(list)
    for record in dataset.records("recipes_records"):
        values = [record[f"recipes_records/{name}"] for name in ("name", *names)]
        scene, *values = [v.decode() if isinstance(v, bytes) else v for v in values]
        found[scene].append(dict(zip(names, values, strict=True)))
    assert found == {
        f"{index:06d}": json.loads((output / f"{index:06d}.json").read_text())["sources"]
        for index in range(3)
    }
    if labelled:
        for record, row in zip(dataset.records("labels"), clips.labels, strict=True):
            classes = {label.decode() for label in record["labels/labels"]}
            assert classes == {clips.class_names[i] for i in np.flatnonzero(row)}
    else:
        speeds = [[source["speed"] for source in found[f"{index:06d}"]] for index in range(3)]
        drawn = [clips.scene(index).speeds for index in range(3)]
        assert speeds == [[round(speed, 6) for speed in row] for row in drawn]
        assert len({speed for row in speeds for speed in row}) > 1
    sets = {node.id: node.includes[0] for node in dataset.metadata.file_sets}
    assert sorted(path.name for path in output.glob(sets["mixtures"])) == [
        f"{index:06d}.wav" for index in range(3)
    ]
    assert set(output.glob(sets["sources"])) == set(output.glob("*/*.wav"))


def test_other_folders_stay_as_they_are(sounds, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is not empty, but holds no mix\.json"):
        write_mixtures(opened(sounds, 2), tmp_path / "mine", verbose=False)
    assert (tmp_path / "mine" / "a.txt").read_text() == "mine"


def test_sounds_that_gave_way_are_listed_by_what_reads_the_scenes(sounds, tmp_path):
    to_separate, to_embed = opened(sounds, 8), opened(sounds, 8)
    broken = opened(sounds, 8).scene(0).names[0]
    (sounds / broken).write_bytes((sounds / broken).read_bytes()[:2000])
    separator = Separator(2, STFTBasis(64, 32), TDCN(4, 8, 1, 1), "uniform", sample_rate=RATE)
    channels = separate_recordings(separator, to_separate, tmp_path / "channels", verbose=False)
    assert channels.separated == 8
    assert [reason.partition(":")[0] for reason in channels.skipped] == [str(sounds / broken)]
    encoder = Encoder(SmallBackbone(8, width=2))
    rows = embed_recordings(encoder, to_embed, tmp_path / "table.csv", verbose=False)
    assert rows.embedded == 8
    assert [entry.name for entry in rows.skipped] == [broken]


def test_an_only_scene_that_cannot_be_is_an_error(sounds, tmp_path):
    clips = opened(sounds, 1)
    for file in sounds.rglob("*.wav"):
        file.write_bytes(file.read_bytes()[:2000])
    separator = Separator(2, STFTBasis(64, 32), TDCN(4, 8, 1, 1), "uniform", sample_rate=RATE)
    with pytest.raises(InputError, match="mix/train/0/000000: has no usable recording"):
        separate_recordings(separator, clips, tmp_path / "out", verbose=False)


@pytest.mark.parametrize("labelled", [True, False])
def test_scenes_of_sounds_that_break_are_skipped(sounds, tmp_path, labelled):
    """Where labels are known, no other sound takes their place."""
    clips = opened(sounds, 12)
    names = [clips.scene(index).names for index in range(12)]
    broken = next(scene for scene in names if len(scene) > 1)[1]
    if labelled:
        assert len(clips.labels) == 12
    (sounds / broken).write_bytes((sounds / broken).read_bytes()[:2000])
    lost = [name for name, scene in zip(clips.names, names, strict=True) if broken in scene]
    done = write_mixtures(clips, tmp_path / "out", verbose=False)
    if not labelled:
        assert done == (12, 0, [])
        assert [entry.name for entry in clips.skipped] == [broken]
        return
    assert [entry.name for entry in done.skipped] == lost
    assert done.written == 12 - len(lost) > 0
