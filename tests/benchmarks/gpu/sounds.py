"""The sounds that the shipped separators have heard: CC0 and CC BY only, fold 5 of ESC-50 unheard.

    python tests/benchmarks/gpu/sounds.py --esc50=ESC50 --berklee=BERKLEE --words=WORDS \
        --output=SOUNDS.csv

Writes a manifest of files where they lie, with the columns path, labels and fold. The folds are
those of ESC-50, and 0 for everything else. ESC50 has a `labels.csv` with the columns filename,
labels, fold and licence.
"""

import argparse
import csv
import pathlib
import zlib

# What Berklee's sounds are is not known. In groups by name, instead of classes, one class of ESC-50
# is heard as often as one of them.
GROUPS = 25


def main():
    parser = argparse.ArgumentParser()
    for name in ("esc50", "berklee", "words", "output"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    options = parser.parse_args()
    with open(options.esc50 / "labels.csv", encoding="utf-8", newline="") as file:
        clips = [
            (options.esc50 / row["filename"], row["labels"], row["fold"])
            for row in csv.DictReader(file)
            if row["licence"] in ("CC0", "CC-BY") and row["fold"] != "5"
        ]
    for path in sorted(options.berklee.rglob("*.ogg")):
        group = zlib.crc32(path.stem.rstrip("0123456789_").encode()) % GROUPS
        clips.append((path, f"berklee {group}", "0"))
    for path in sorted(options.words.rglob("*.ogg")):
        clips.append((path, path.name.split("_")[0], "0"))
    with open(options.output, "x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "labels", "fold"])
        writer.writerows((path.resolve(), labels, fold) for path, labels, fold in clips)
    print(f"{options.output}: {len(clips)} sounds")


if __name__ == "__main__":
    main()
