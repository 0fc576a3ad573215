"""Labels for a folder whose files are named after what they hold: dog_3.ogg, dog_bark.ogg.

    python tests/benchmarks/stems.py --input=BERKLEE --output=BERKLEE.csv

Writes a manifest with the columns path and labels. A label is a name up to its first underscore or
digit, in lower case; labels of fewer than `--minimum` files are left out.
"""

import argparse
import collections
import csv
import pathlib
import re


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--minimum", type=int, default=15)
    options = parser.parse_args()
    labels = {
        path.resolve(): re.split(r"[_\d]", path.stem.lower())[0]
        for path in sorted(options.input.rglob("*.ogg"))
    }
    counts = collections.Counter(label for label in labels.values() if label)
    kept = {path: label for path, label in labels.items() if counts[label] >= options.minimum}
    with open(options.output, "x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "labels"])
        writer.writerows(kept.items())
    print(f"{options.output}: {len(kept)} files, {len(set(kept.values()))} labels")


if __name__ == "__main__":
    main()
