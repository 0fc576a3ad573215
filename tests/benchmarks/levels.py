"""Is a sound still known if it is played more quietly? Accuracy on a fold at other levels.

    python tests/benchmarks/levels.py --input=ESC50 --encoder=encoder.keras --fold=4 --without=5 \
        --output=levels.json

A logistic regression is trained on the embeddings of all other folds but `--without`, at their own
level, and tested on those of the fold, at each level of `--levels` (dB relative to its own).
"""

import argparse
import json

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sepssl
from sepssl.data.folds import open_fold_clips
from sepssl.files import atomic_file
from sepssl.representation.embed import embed_clips, embed_recording


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--fold", required=True)
    parser.add_argument("--without", default="")
    parser.add_argument("--levels", default="0,-10,-20,-30,-40,10")
    parser.add_argument("--penalty", type=float, default=0.01, help="scikit-learn's C")
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    encoder = sepssl.load_encoder(options.encoder)
    found = open_fold_clips(options.input, encoder.sample_rate)
    levels = [float(level) for level in options.levels.split(",")]
    gains = [1.0, *(10 ** (level / 20) for level in levels)]

    def embed(waveform):
        return np.stack([embed_recording(encoder, np.float32(gain) * waveform) for gain in gains])

    vectors, indices, _ = embed_clips(embed, found.clips, options.input)
    folds = np.array([found.clips.folds[index] for index in indices])
    targets = found.targets[indices]
    tested = folds == options.fold
    trained = ~tested & (folds != options.without)
    classifier = LogisticRegression(C=options.penalty, max_iter=1000, tol=1e-3)
    model = make_pipeline(StandardScaler(), classifier).fit(vectors[trained, 0], targets[trained])
    accuracy = {
        f"{level:g} dB": round(float(model.score(vectors[tested, 1 + i], targets[tested])), 4)
        for i, level in enumerate(levels)
    }
    print(options.encoder, accuracy)
    with atomic_file(options.output) as temporary:
        temporary.write_text(json.dumps(vars(options) | {"accuracy": accuracy}, indent=2) + "\n")


if __name__ == "__main__":
    main()
