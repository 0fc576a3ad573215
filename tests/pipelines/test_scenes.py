"""Scenes as files: the sound is that of the scenes, annotations are of what is heard."""

import numpy as np
import pytest
import soundfile

from sepssl.data.annotations import read_annotations
from sepssl.data.scenes import SceneConfig, make_scene
from sepssl.data.sources import open_clips
from sepssl.errors import InputError
from sepssl.pipelines.scenes import write_scenes

CONFIG = SceneConfig(duration=2.0)
FRAME = 1600  # 0.1 s


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes") / "new" / "scenes", 12, CONFIG, seed=3)


def test_files_are_the_scenes_and_named_after_their_sounds(folder):
    clips = open_clips(folder, 16000)
    assert len(clips) == 12
    for name in clips.names:
        kind, stem = name.removesuffix(".wav").split("/")
        number, *classes = stem.split("-")
        scene = make_scene(CONFIG, 3, "files", int(number))
        assert (kind, tuple(classes)) == (scene.scene_type, scene.class_names)
        found = soundfile.read(folder / name)[0]
        np.testing.assert_allclose(found, scene.mixture, atol=0.51 / 32768)


def test_annotations_are_where_sources_are_within_20_db_of_the_scene(folder):
    annotations = read_annotations(folder / "annotations.csv")
    seen = set()
    for path in folder.rglob("*.wav"):
        name = path.relative_to(folder).as_posix()
        scene = make_scene(CONFIG, 3, "files", int(path.stem.split("-")[0]))
        for label, source in zip(scene.class_names, scene.sources, strict=False):
            powers = np.mean(np.square(source.reshape(-1, FRAME)), axis=1)
            active = powers > 0.01 * np.mean(np.square(scene.mixture))
            inside = np.zeros(len(active), bool)
            for a in annotations:
                if (a.recording, a.label) == (name, label):
                    first, last = round(a.start * 10), round(a.end * 10)
                    assert active[first]
                    assert active[last - 1]
                    inside[first:last] = True
                    seen.add((name, label))
            # Two active frames and more are annotated; so are pauses of up to two.
            assert inside[1:][active[1:] & active[:-1]].all()
            quiet = np.convolve(~active, np.ones(3), "valid") == 3
            assert not (inside[:-2] & inside[1:-1] & inside[2:])[quiet].any()
    assert len({label for _, label in seen}) > 8


def test_the_same_scenes_are_left_alone_and_others_refused(folder, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_scenes(str(folder), 12, CONFIG, seed=3) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    for arguments in ((12, CONFIG, 4), (11, CONFIG, 3), (12, None, 3)):
        with pytest.raises(InputError, match=r"scenes: .*expected"):
            write_scenes(folder, *arguments)
    with pytest.raises(InputError, match="count=0: expected 1 or more"):
        write_scenes(tmp_path / "none", 0)
    assert not (tmp_path / "none").exists()
