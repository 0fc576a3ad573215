"""Search for a quiet sound in scenes: by the vector of the scene, of its channels, or of both.

    python tests/benchmarks/hidden_sounds.py --input=ESC50 --encoder=encoder.keras \
        --separator=untrained=states/step-0000000.keras --separator=trained=final.keras \
        --output=hidden.json

A scene is 4 s of a sound and of two of other classes; the sound lies 0, 6, 12 or 18 dB below the
sum of these two. Every sound of the fold that is not in a scene, nor of a recording that is, is a
query. Scenes in which a loud sound is of the query's class are left out of its ranking. The score
is the mean over the queries of the average precision; relevant are scenes whose quiet sound is of
the query's class. Prints a table for each way to compare vectors:

- cosine: as sepssl-search does;
- centred: of vectors from which the mean over the scenes' own vectors is subtracted;
- whitened: centred, then divided by the square root of their covariance (a tenth of the mean
  variance is added to each).

Each with the sounds as they are, and "levelled": queries and channels are brought to the power of
the scenes before they are embedded, since an encoder of log-mel spectra hears their level.

- windows: as sepssl-search does in an index of windows as long as the encoder's patch, the default:
  the best window of a scene counts, windows without sound do not, and a query is the mean of those
  with sound. Channels count where they are at most 30, or 10, dB below the mixture in the window.
"""

import argparse
import collections
import json
import pathlib

import numpy as np

import sepssl
from sepssl.data.labels import with_labels
from sepssl.evaluation.scores import average_precision
from sepssl.representation.windows import WindowEmbedder, pooled

LEVELS_DB = (0.0, -6.0, -12.0, -18.0)
SECONDS = 4.0
AUDIBLE_DB = -30.0  # channels further below the scene are not embedded, as in sepssl-embed
FLOORS_DB = (AUDIBLE_DB, -10.0)  # of channels in a window


def halves(names, classes, rng):
    """Of every class, about half of the recordings for scenes, the others for queries."""
    recordings = collections.defaultdict(lambda: collections.defaultdict(list))
    for i, (name, kind) in enumerate(zip(names, classes, strict=True)):
        recordings[kind][pathlib.Path(name).name.split("-")[1]].append(i)
    scenes, queries = [], []
    for of_class in recordings.values():
        groups = [of_class[k] for k in sorted(of_class)]
        order = rng.permutation(len(groups))
        for n, k in enumerate(order):
            (scenes if n < (len(groups) + 1) // 2 else queries).extend(groups[k])
    return np.array(scenes), np.array(queries)


def part(waveform, samples, rng):
    """A stretch with sound in it (recordings may be padded with zeros), not silent on average."""
    heard = np.flatnonzero(np.abs(waveform) > 1e-4)
    first, last = (heard[0], heard[-1] + 1) if len(heard) else (0, len(waveform))
    start = int(rng.integers(first, max(last - samples, first) + 1))
    cut = waveform[start : start + samples]
    return np.pad(cut, (0, samples - len(cut)))


def power(waveform):
    return float(np.mean(np.square(waveform, dtype=np.float64))) + 1e-12


def levelled(waveforms):
    """Of root mean square 0.1, over the last axis."""
    rms = np.sqrt(np.mean(np.square(waveforms, dtype=np.float64), axis=-1, keepdims=True))
    return (waveforms * (0.1 / np.maximum(rms, 1e-6))).astype(np.float32)


def draw_scenes(waveforms, classes, available, per_class, rng, samples):
    """[target, other, other], each of power 1, and their classes."""
    scenes = []
    by_class = collections.defaultdict(list)
    for i in available:
        by_class[classes[i]].append(i)
    for kind in sorted(by_class):
        for n in range(per_class):
            target = by_class[kind][n % len(by_class[kind])]
            others = rng.choice([k for k in sorted(by_class) if k != kind], 2, replace=False)
            chosen = [target, *(rng.choice(by_class[k]) for k in others)]
            parts = [part(waveforms[i], samples, rng) for i in chosen]
            parts = [p / np.sqrt(power(p)) for p in parts]
            scenes.append((np.stack(parts), [classes[i] for i in chosen]))
    return scenes


def embedded(encoder, waveforms):
    return np.concatenate(
        [np.asarray(encoder(waveforms[i : i + 32])) for i in range(0, len(waveforms), 32)]
    )


def in_windows(embedder, waveforms):
    """[scenes, rows, samples] -> vectors [scenes, windows, rows, size], powers [..., rows]."""
    found = [list(embedder([rows])) for rows in waveforms]
    return (
        np.stack([np.concatenate([batch.embeddings for batch in batches]) for batches in found]),
        np.stack([np.concatenate([batch.powers for batch in batches]) for batches in found]),
    )


def best_windows(queries, vectors, powers, name):
    """Scores [queries, scenes] by the best window of the mixture, of a channel, or of either.

    Args:
        queries: [queries, size].
        vectors, powers: what `in_windows` gives of mixtures and, after each, its channels.
        name: of the channels.
    """
    flat = vectors.reshape(len(vectors), -1, vectors.shape[-1])
    found = cosines(queries, flat, lambda x: x).reshape(len(queries), *powers.shape)
    found = np.where(vectors.any(axis=-1), found, -1)
    mixture = found[..., 0].max(axis=-1)
    scores = {("windows", "mixture", ""): mixture}
    for floor in FLOORS_DB:
        audible = powers[..., 1:] >= 10 ** (floor / 10) * powers[..., :1]
        best = np.where(audible, found[..., 1:], -1).max(axis=(-2, -1))
        scores["windows", f"best channel, {floor:g} dB", name] = best
        scores["windows", f"either, {floor:g} dB", name] = np.maximum(mixture, best)
    return scores


def separated(separator, mixtures):
    return np.concatenate(
        [
            np.asarray(separator.predict_on_batch(mixtures[i : i + 16]))
            for i in range(0, len(mixtures), 16)
        ]
    )


def comparisons(scene_vectors):
    """Ways to compare vectors: what is done to them before their cosine."""
    mean = scene_vectors.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(scene_vectors.T))
    whitening = axes / np.sqrt(np.maximum(values, 0) + 0.1 * values.mean())
    return {
        "cosine": lambda x: x,
        "centred": lambda x: x - mean,
        "whitened": lambda x: (x - mean) @ whitening,
    }


def cosines(queries, vectors, change):
    """[queries, scenes, rows]"""
    a, b = change(queries), change(vectors)
    a = a / np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-9)
    b = b / np.maximum(np.linalg.norm(b, axis=-1, keepdims=True), 1e-9)
    return np.einsum("qd,srd->qsr", a, b)


def mean_average_precision(scores, query_classes, scene_classes):
    values = []
    for row, kind in zip(scores, query_classes, strict=True):
        ranked = np.array([kind not in kinds[1:] for kinds in scene_classes])
        relevant = np.array([kinds[0] == kind for kinds in scene_classes])[ranked]
        if relevant.any():
            values.append(average_precision(relevant.astype(int), row[ranked]))
    return float(np.mean(values))


def opened(**counts):
    """The command line's options, and the encoder, separators by name and clips that they name.

    Args:
        counts: options of this program alone, whole numbers, with their defaults.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True)
    parser.add_argument("--fold", default="5")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--separator", action="append", default=[], help="NAME=FILE")
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    encoder = sepssl.load_encoder(options.encoder)
    named = [value.split("=", 1) for value in options.separator]
    separators = {name: sepssl.load_separator(path) for name, path in named}
    clips = with_labels(sepssl.open_clips(options.input, encoder.sample_rate), verbose=False)
    return options, encoder, separators, clips


def main():
    options, encoder, separators, clips = opened(per_class=4)
    embedder = WindowEmbedder(encoder)
    chosen = [i for i in range(len(clips)) if clips.folds[i] == options.fold]
    names = [clips.names[i] for i in chosen]
    classes = [clips.class_names[int(np.argmax(clips.labels[i]))] for i in chosen]
    waveforms = [clips.read(i) for i in chosen]
    samples = round(SECONDS * encoder.sample_rate)
    results: dict = collections.defaultdict(dict)  # of seeds
    for seed in map(int, options.seeds.split(",")):
        rng = np.random.default_rng(seed)
        in_scenes, asked = halves(names, classes, rng)
        scenes = draw_scenes(waveforms, classes, in_scenes, options.per_class, rng, samples)
        scene_classes = [kinds for _, kinds in scenes]
        query_classes = [classes[i] for i in asked]
        # Scenes have the root mean square 0.1.
        asked_sounds = {
            "": [waveforms[i] for i in asked],
            "levelled ": [levelled(part(waveforms[i], len(waveforms[i]), rng)) for i in asked],
        }
        queries = {
            how: np.concatenate([np.asarray(encoder(x[None])) for x in sounds])
            for how, sounds in asked_sounds.items()
        }
        query_windows = []
        for i in asked:
            (vectors,), _ = in_windows(embedder, waveforms[i][None, None])
            query_windows.append(pooled(iter(vectors[:, 0]), "mean"))
        for level in LEVELS_DB:
            sources = np.stack([parts for parts, _ in scenes]).astype(np.float64)
            rest = sources[:, 1:].sum(axis=1)
            gains = np.sqrt([10 ** (level / 10) * power(r) for r in rest])
            sources[:, 0] *= gains[:, None]
            scale = 0.1 / np.sqrt([power(m) for m in sources.sum(axis=1)])
            sources = (sources * scale[:, None, None]).astype(np.float32)
            mixtures = sources.sum(axis=1)
            scene_vectors = embedded(encoder, mixtures)
            channels = {name: separated(s, mixtures) for name, s in separators.items()}
            channels["true sources"] = sources
            for name, sounds in channels.items():
                levels = [
                    [10 * np.log10(power(c) / power(m)) for c in row]
                    for row, m in zip(sounds, mixtures, strict=True)
                ]
                audible = np.array(levels) >= AUDIBLE_DB
                rows = np.concatenate([mixtures[:, None], sounds], axis=1)
                windows = in_windows(embedder, rows)
                scores = best_windows(np.stack(query_windows), *windows, name)
                for how, asked_vectors in queries.items():
                    heard = levelled(sounds) if how else sounds
                    vectors = embedded(encoder, heard.reshape(-1, samples))
                    vectors = vectors.reshape(*sounds.shape[:2], -1)
                    for way, change in comparisons(scene_vectors).items():
                        mixture = cosines(asked_vectors, scene_vectors[:, None], change)[..., 0]
                        found = cosines(asked_vectors, vectors, change)
                        best = np.where(audible[None], found, -1).max(axis=-1)
                        scores |= {
                            (how + way, "mixture", ""): mixture,
                            (how + way, "best channel", name): best,
                            (how + way, "either", name): np.maximum(mixture, best),
                            (how + way, "mean of both", name): (mixture + best) / 2,
                        }
                for key, values in scores.items():
                    value = mean_average_precision(values, query_classes, scene_classes)
                    results[*key, level][seed] = value
        print(f"seed {seed}, {level:g} dB: done", flush=True)
    table = [
        {
            "vectors": way,
            "rows": rows,
            "channels": name,
            "level_db": level,
            "map": list(values.values()),
        }
        for (way, rows, name, level), values in results.items()
    ]
    pathlib.Path(options.output).write_text(json.dumps(table, indent=1) + "\n")
    for way in dict.fromkeys(way for way, *_ in results):
        print(f"\n| {way} | channels | " + " | ".join(f"{x:g} dB" for x in LEVELS_DB) + " |")
        print("|---|---|" + "---|" * len(LEVELS_DB))
        for rows, name in dict.fromkeys((r, n) for w, r, n, _ in results if w == way):
            cells = [list(results[way, rows, name, level].values()) for level in LEVELS_DB]
            shown = [f"{np.mean(c):.3f} ({min(c):.3f} to {max(c):.3f})" for c in cells]
            print(f"| {rows} | {name} | " + " | ".join(shown) + " |")


if __name__ == "__main__":
    main()
