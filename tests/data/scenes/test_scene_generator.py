"""The generator gives the scenes of random access, in order, whatever the workers."""

import itertools
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from sepssl.data.scenes import SceneConfig, generate, make_scene
from sepssl.errors import InputError

SHORT = SceneConfig(duration=0.5, sample_rate=8000)


@pytest.mark.parametrize("workers", [0, 1, 3, None])
def test_same_scenes_as_random_access_in_order(workers):
    indices = [5, 0, 17, 3, 4, 100, 2, 9, 1, 8, 7, 6]
    scenes = list(generate(SHORT, 3, "train", indices, workers))
    assert len(scenes) == len(indices)
    for index, scene in zip(indices, scenes, strict=True):
        expected = make_scene(SHORT, 3, "train", index)
        np.testing.assert_array_equal(scene.mixture, expected.mixture)
        assert scene.class_names == expected.class_names


@pytest.mark.parametrize("workers", [0, 2])
def test_endless_indices_and_early_stop(workers):
    scenes = generate(SHORT, 0, "train", itertools.count(), workers)
    sums = [float(np.abs(scene.mixture).sum()) for scene in itertools.islice(scenes, 5)]
    assert len(set(sums)) == 5
    scenes.close()
    assert next(scenes, None) is None


def test_errors_reach_the_caller():
    with pytest.raises(InputError, match="workers=-1"):
        generate(SHORT, 0, "train", [0], -1)
    scenes = generate(SHORT, 0, "train", [0, -7], 2)
    next(scenes)
    with pytest.raises(InputError, match="index=-7"):
        next(scenes)


def test_scenes_do_not_import_tensorflow():
    code = "import sys, sepssl.data.scenes; print('tensorflow_datasets' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


@pytest.mark.slow
def test_fifty_clips_of_five_seconds_a_second():
    config = SceneConfig()
    make_scene(config, 0, "speed", 0)
    # Others on the same cores take cache and clock from it: CPU seconds, too, are those of this
    # code only where it runs alone.
    load = os.getloadavg()[0]
    if (os.cpu_count() or 1) < 2 or load > 1:
        pytest.skip(f"no rate: load {load:.1f} of others on {os.cpu_count()} CPUs")
    cpu, wall = time.process_time(), time.perf_counter()
    count = sum(1 for _ in generate(config, 0, "speed", range(200), 2))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert cpu / count < 0.040, f"{1000 * cpu / count:.1f} ms of CPU a clip"
    assert count / wall > 50, f"{count / wall:.0f} clips a second"
