"""What does it cost that a separator splits sounds over several channels?

    python tests/benchmarks/merging.py --input=ESC50 --separator=small-8 --fold=4 \
        --train_folds=1,2,3 --output=merging.json

Scores of scenes mixed from a fold: of the channels as they are; of channels that the true sources
have put together (each is added to one source, so that the mean SI-SNR is as large as single moves
make it); and of channels that a classifier has. It has learned on scenes of other folds which pairs
of channels these add to one source, from the similarities of waveforms, envelopes and spectra and
from levels. The most probable pair is joined first, and groups by the mean over their pairs,
weighted by amplitude, as long as it is above a threshold. With `--dataset=scenes` the
same classifier is tested on built-in scenes.
"""

import argparse
import collections
import json
import pathlib

import numpy as np
from scipy.signal import stft
from sklearn.ensemble import HistGradientBoostingClassifier

import sepssl
from sepssl.data.mixtures import Mixtures
from sepssl.data.sources import Scenes, open_clips
from sepssl.progress import Progress
from sepssl.separation.metrics import SeparationScores, si_snr

THRESHOLDS = (0.4, 0.5, 0.6, 0.7)


def separated(separator, dataset, fold, count, seed):
    """Mixtures, sources that sound [count, samples], and channels, of scenes."""
    rate = separator.sample_rate
    clips = open_clips(
        dataset,
        rate,
        sources=True,
        scenes=Scenes({"test": count}, seed),
        mixtures=Mixtures({"test": count}, seed, test_fold=fold),
    )
    found = []
    with Progress("separating", len(clips), "scene") as progress:
        for i in range(len(clips)):
            mixture, sources = clips.read_with_sources(i)
            sources = sources[np.any(sources != 0, axis=-1)]
            found.append((mixture, sources, np.asarray(separator.separate(mixture, rate))))
            progress.update()
    return found


def true_groups(sources, channels):
    """The source that each channel is added to."""
    sources, channels = sources.astype(np.float64), channels.astype(np.float64)
    gram, dot = channels @ channels.T, sources @ channels.T
    power = np.sum(sources**2, axis=1)

    def score(groups):
        member = np.eye(len(sources))[groups].T  # [sources, channels]
        energy = np.einsum("sc,cd,sd->s", member, gram, member)
        share = np.sum(dot * member, axis=1) ** 2 / np.maximum(power * energy, 1e-30)
        share = np.minimum(share, 1.0)
        return np.mean(10 * np.log10((share + 1e-8) / (1 - share + 1e-8)))

    groups = np.argmax(dot / np.sqrt(power)[:, None], axis=0)
    best, previous = score(groups), -np.inf
    while best > previous + 1e-6:
        previous = best
        for channel in range(len(channels)):
            for source in range(len(sources)):
                moved = groups.copy()
                moved[channel] = source
                if (value := score(moved)) > best:
                    groups, best = moved, value
    return groups


def cosine(rows):
    rows = rows.reshape(len(rows), -1)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return rows @ rows.T


def correlation(rows):
    rows = rows.reshape(len(rows), -1)
    return cosine(rows - rows.mean(axis=1, keepdims=True))


def levels(mixture, channels):
    """[channels], in dB below the mixture."""
    power = np.mean(np.square(channels, dtype=np.float64), axis=1)
    return 10 * np.log10((power + 1e-12) / (np.mean(np.square(mixture, dtype=np.float64)) + 1e-12))


def pairs(mixture, channels):
    """What is known of every pair: [channels, channels, features]."""
    spectra = np.abs(stft(channels, nperseg=512)[2]) ** 2 + 1e-12  # [channels, bins, frames]
    floor = 1e-4 * spectra.sum(axis=(1, 2)).max() / spectra[0].size
    envelopes = 10 * np.log10(spectra.sum(axis=1) + 50 * floor)
    blocks = spectra[..., : spectra.shape[2] // 6 * 6].reshape(*spectra.shape[:2], -1, 6)
    level = levels(mixture, channels)
    order = np.argsort(np.argsort(-level))
    known = [
        cosine(channels),
        cosine(np.sqrt(spectra)),
        cosine(np.sqrt(spectra.sum(axis=1))),
        cosine(np.sqrt(spectra.mean(axis=2))),
        correlation(envelopes),
        correlation(np.diff(envelopes, axis=1)),
        correlation(10 * np.log10(blocks.sum(axis=(1, 3)) + 300 * floor)),
        correlation(10 * np.log10(spectra.mean(axis=2) + floor)),
        correlation(10 * np.log10(spectra + floor)),
        np.maximum.outer(level, level),
        np.minimum.outer(level, level),
        np.maximum.outer(order, order),
        np.minimum.outer(order, order),
    ]
    return np.stack(known, axis=-1)


def joined(same, amplitudes, threshold):
    """Groups of channels, from the probability of every pair that they belong to one source."""
    groups = [[i] for i in range(len(same))]
    weighted = same * np.outer(amplitudes, amplitudes)
    while len(groups) > 1:
        value, i, j = max(
            (weighted[np.ix_(a, b)].sum() / (amplitudes[a].sum() * amplitudes[b].sum()), i, j)
            for j, b in enumerate(groups)
            for i, a in enumerate(groups[:j])
        )
        if value < threshold:
            break
        groups[i] += groups.pop(j)
    return groups


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True)
    parser.add_argument("--separator", default="small-8")
    parser.add_argument("--fold", default="4")
    parser.add_argument("--train_folds", default="1,2,3")
    parser.add_argument("--dataset", default="", help="what is tested; scenes of the fold")
    parser.add_argument("--num_scenes", type=int, default=300)
    parser.add_argument("--num_train_scenes", type=int, default=300, help="of each fold")
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    if not options.dataset and options.fold in options.train_folds.split(","):
        parser.error(f"--fold={options.fold} is one of --train_folds={options.train_folds}")
    separator = sepssl.load_separator(options.separator)
    upper = np.triu_indices(separator.num_sources, 1)
    features, targets, weights = [], [], []
    for fold in options.train_folds.split(","):
        for mixture, sources, channels in separated(
            separator, f"mix:{options.input}", fold, options.num_train_scenes, 1
        ):
            groups = true_groups(sources, channels)
            features.append(pairs(mixture, channels)[upper])
            targets.append((groups[:, None] == groups)[upper])
            level = levels(mixture, channels)
            weights.append(10 ** (np.minimum.outer(level, level)[upper] / 40))
    classifier = HistGradientBoostingClassifier(
        max_iter=300, learning_rate=0.06, max_leaf_nodes=16, random_state=0
    ).fit(np.concatenate(features), np.concatenate(targets), np.concatenate(weights))

    dataset = options.dataset or f"mix:{options.input}"
    tested = separated(separator, dataset, options.fold, options.num_scenes, 0)
    known = np.stack([pairs(mixture, channels) for mixture, _, channels in tested])
    same = classifier.predict_proba(known.reshape(-1, known.shape[-1]))[:, 1]
    same = same.reshape(known.shape[:-1])
    scores = collections.defaultdict(SeparationScores)
    loudest = collections.defaultdict(list)
    for (mixture, sources, channels), probabilities in zip(tested, same, strict=True):
        groups = true_groups(sources, channels)
        found = {
            "as separated": channels,
            "by the true sources": np.stack(
                [channels[groups == k].sum(axis=0) for k in range(len(sources))]
            ),
        }
        amplitudes = 10 ** (levels(mixture, channels) / 20)
        for threshold in THRESHOLDS:
            learned = joined(probabilities, amplitudes, threshold)
            found[f"learned, {threshold:g}"] = np.stack([channels[g].sum(axis=0) for g in learned])
        first = np.argmax(np.mean(sources**2, axis=1))
        for name, estimates in found.items():
            scores[name].add(mixture, sources, estimates)
            if len(sources) > 1:
                best = np.max(si_snr(sources[first], estimates))
                loudest[name].append(best - si_snr(sources[first], mixture))
    result = {
        name: score.result() | {"loudest": float(np.mean(loudest[name]))}
        for name, score in scores.items()
    }
    for name, row in result.items():
        print(f"{name:20}", " ".join(f"{key} {value:.2f}" for key, value in row.items()))
    paths = ("input", "output")
    arguments = {key: value for key, value in vars(options).items() if key not in paths}
    report = {"arguments": arguments, "scores": result}
    pathlib.Path(options.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
