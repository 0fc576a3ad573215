"""Do classifiers of scenes gain by vectors of channels beside the mixture's?

    python tests/benchmarks/channel_vectors.py --input=ESC50 --separator=small-mixit \
        --encoder=NAME=encoder.keras --output=channels.json

On the scenes of seed 0 of configs/real_ablation.py: query by example and both classifiers, of the
mixture's vector alone and with the mean, the maximum, or both over the vectors of its channels (of
the separator, or its true sources; those at most 30 dB below the mixture) after it. The control,
"twice", has the mixture's vector twice, since longer vectors are regularized otherwise.
"""

import argparse
import collections
import json
import pathlib
import tempfile

import numpy as np

import sepssl
from sepssl.configs import real_ablation
from sepssl.data.splits import SPLITS
from sepssl.evaluation.protocol import evaluate_representation
from sepssl.evaluation.scene_retrieval import audible
from sepssl.evaluation.shallow import Split
from sepssl.files import atomic_file
from sepssl.pipelines.ablation import METRICS, SeedCells
from sepssl.progress import Progress


def kinds_of_rows(mixture, channels):
    """Name -> vectors, of a mixture [dim] and its channels [channels, dim]."""
    if not len(channels):  # none is audible
        channels = mixture[None]
    mean, largest = channels.mean(axis=0), channels.max(axis=0)
    return {
        "mean": [mixture, mean],
        "max": [mixture, largest],
        "mean and max": [mixture, mean, largest],
    }


def vectors_of(clips, encoders, separator, title):
    """(encoder, channels, rows) -> vectors [clips, dim]."""
    found = collections.defaultdict(list)
    with Progress(title, len(clips), "scene") as progress:
        for index in range(len(clips)):
            mixture, sources = clips.read_with_sources(index)
            channels = separator.separate(mixture, clips.sample_rate)
            parts = {"separator": audible(channels, mixture), "sources": audible(sources, mixture)}
            waveforms = np.concatenate([mixture[None], *parts.values()])
            for name, encoder in encoders.items():
                vectors = np.asarray(encoder(waveforms))
                found[name, "", "mixture"].append(vectors[0])
                found[name, "", "twice"].append(np.tile(vectors[0], 2))
                first = 1
                for part, sounds in parts.items():
                    of_channels = vectors[first : first + len(sounds)]
                    for rows, values in kinds_of_rows(vectors[0], of_channels).items():
                        found[name, part, rows].append(np.concatenate(values))
                    first += len(sounds)
            progress.update()
    return {key: np.stack(values) for key, values in found.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True)
    parser.add_argument("--encoder", action="append", required=True, help="NAME=FILE")
    parser.add_argument("--separator", required=True)
    parser.add_argument("--scenes", default="1500,600,1000", help="to train, validate, test on")
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    encoders = {
        name: sepssl.load_encoder(file)
        for name, file in (value.split("=", 1) for value in options.encoder)
    }
    separator = sepssl.load_separator(options.separator)
    config = real_ablation.get_config()
    config.directory = f"mix:{options.input}"
    counts = map(int, options.scenes.split(","))
    config.evaluation.update(dict(zip(SPLITS, counts, strict=True)))
    with tempfile.TemporaryDirectory() as folder:
        splits = SeedCells(config, 0, pathlib.Path(folder)).evaluation_clips()
        vectors = [
            vectors_of(clips, encoders, separator, name)
            for name, clips in zip(SPLITS, splits, strict=True)
        ]
    table = []
    for encoder, channels, rows in vectors[0]:
        embedded = [
            Split(found[encoder, channels, rows], clips.labels)
            for found, clips in zip(vectors, splits, strict=True)
        ]
        scores = evaluate_representation(*embedded, seed=0)
        table.append({"encoder": encoder, "channels": channels, "rows": rows} | scores)
        print(encoder, channels, rows, *(f"{scores[metric]:.3f}" for metric in METRICS), flush=True)
    with atomic_file(options.output) as temporary:
        temporary.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
