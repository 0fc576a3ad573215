"""Search for an isolated sound in mixed scenes, as sepssl-search compares vectors.

    python tests/benchmarks/scene_search.py --input=ESC50 --encoder=small \
        --separator=small=small --separator=small-8=small-8 --output=scenes.json

Scenes as those that separators are scored on: 4 s, one to four sounds at -12 to 6 dB, 300 for each
seed, mixed from about half of the fold's recordings; the others' clips are the queries. Relevant to
a query are the scenes in which a sound of its class is heard. The score is the mean of the average
precision over queries, by the cosine of a scene's one vector, or the largest one of that and of its
channels that are at most 30 dB below it. Prints, and writes, its mean over the seeds.
"""

import collections
import json
import pathlib

import numpy as np
from hidden_sounds import opened

from sepssl.data.mixtures import Mixtures
from sepssl.evaluation.retrieval import directions
from sepssl.evaluation.scene_retrieval import audible, draw_retrieval
from sepssl.evaluation.scores import average_precision


def main():
    options, encoder, separators, clips = opened(scenes=300)

    def embed(waveforms):
        return directions(np.asarray(encoder(waveforms), np.float64))

    results = collections.defaultdict(list)
    for seed in map(int, options.seeds.split(",")):
        drawn = Mixtures({"test": options.scenes}, seed, folds={"test": (options.fold,)})
        queries, scenes = draw_retrieval(clips, drawn, options.input, r"-(\d+)-")
        asked = np.concatenate([embed(queries.read(i)[None]) for i in range(len(queries))])
        scores = collections.defaultdict(list)
        for i in range(len(scenes)):
            mixture, sources = scenes.read_with_sources(i)
            by_mixture = (asked @ embed(mixture[None]).T)[:, 0]
            scores["mixture"].append(by_mixture)
            channels = {
                name: s.separate(mixture, encoder.sample_rate) for name, s in separators.items()
            }
            for name, sounds in (channels | {"true sources": sources}).items():
                found = asked @ embed(audible(sounds, mixture)).T
                scores[name].append(np.maximum(by_mixture, found.max(axis=1)))
        relevant = (queries.labels.astype(int) @ scenes.labels.astype(int).T > 0).astype(int)
        for name, columns in scores.items():
            rows = zip(relevant, np.stack(columns, axis=1), strict=True)
            values = [average_precision(wanted, row) for wanted, row in rows if wanted.any()]
            results[name].append(float(np.mean(values)))
            print(f"seed {seed}, {name}: {results[name][-1]:.3f}", flush=True)
    pathlib.Path(options.output).write_text(json.dumps(results, indent=1) + "\n")
    for name, values in results.items():
        print(f"{name}: {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
