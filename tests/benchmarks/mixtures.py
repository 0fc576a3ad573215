"""How fast scenes are made: the built-in ones, and scenes mixed from a folder of isolated sounds.

    python tests/benchmarks/mixtures.py --input=FOLDER [--rooms=FOLDER]

200 of each kind are made by a thread per core, as a store for training is filled. Printed are
scenes of 5 s per second, and per second of CPU time, which other work on the machine changes less.
"""

import argparse
import os
import time

from sepssl.data.mixtures import MixtureConfig, Mixtures
from sepssl.data.read_ahead import read_ahead
from sepssl.data.sources import Scenes, open_clips

COUNT = 200


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True)
    parser.add_argument("--rooms", default="")
    arguments = parser.parse_args()
    spec = f"mix:{arguments.input}"
    kinds = {"built-in": open_clips("scenes", 16000, scenes=Scenes({"train": COUNT}))}
    options = {"mixed": {}, "mixed, with a microphone": {"microphone": True}}
    if arguments.rooms:
        options["mixed, in rooms, with a microphone"] = {
            "rooms": arguments.rooms,
            "microphone": True,
        }
    for name, values in options.items():
        mixtures = Mixtures({"train": COUNT}, config=MixtureConfig(duration=5.0, **values))
        kinds[name] = open_clips(spec, 16000, mixtures=mixtures)
    for name, clips in kinds.items():
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in read_ahead(clips.read_with_sources, range(COUNT), os.cpu_count() or 1):
            pass
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{name:<36} {COUNT / wall:6.1f} a second, {COUNT / cpu:6.1f} a second of CPU time")


if __name__ == "__main__":
    main()
