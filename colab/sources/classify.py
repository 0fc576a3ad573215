# %% [markdown]
# # A classifier from a few labels
#
# A small classifier on the vectors of an index learns classes of sounds from some tens of labels,
# finds them in all recordings, and names what to label next. Indexing the built-in scenes takes
# about a minute on two CPU cores, and every round of labels a few seconds.

# %% cellView="form"
# @title Your recordings
# @markdown A folder or a sound file: a path such as `/content/drive/MyDrive/recordings`, or
# @markdown `upload` to choose files on your computer. Left empty: scenes that sepssl makes itself.
INPUT = ""  # @param {type: "string"}
# @markdown Where the results go. A folder on Drive outlives this session.
OUTPUT = "classified"  # @param {type: "string"}
ENCODER = "small"  # @param {type: "string"}

import pathlib

from sepssl.pipelines.colab import chosen_recordings

output = pathlib.Path(OUTPUT)
recordings = chosen_recordings(INPUT, output, scenes=200)
print(f"recordings: {recordings}")

# %% [markdown]
# ## Index

# %%
import sepssl
from sepssl.pipelines.embed import embed_recordings
from sepssl.weights import reference

encoder = sepssl.load_encoder(ENCODER)
models = {"encoder": reference(ENCODER, "Encoder")}
clips = sepssl.open_clips(recordings, encoder.sample_rate)
summary = embed_recordings(encoder, clips, output / "index", models=models)
for skipped in summary.skipped:
    print("skipped:", skipped.reason)
print(f"{summary.rows} windows of {len(clips)} recordings")

# %% [markdown]
# ## Labels
#
# Raven selection tables, Audacity label tracks and CSV files are read, or a folder of them. A CSV
# file has the columns `file`, `start`, `end` and `label`; the label `-` says that none of the
# classes is heard. Label a recording from beginning to end, since its other windows count as
# without the class.
#
# If you have no labels yet, leave `LABELS` empty: the page below plays twenty windows that are
# unlike each other. Click on what you hear, save the labels, and run this cell again with `upload`
# (the files that you upload add up) or, elsewhere than in Colab, with the path of the file.

# %%
LABELS = ""  # @param {type: "string"}

import csv

from IPython.display import display

from sepssl.data.annotations import read_annotations
from sepssl.index.rows import read_rows
from sepssl.pipelines.classify import suggest_windows, windows_of, write_suggestions
from sepssl.reports.notebook import show_page

CLASSES = ("footsteps", "helicopter", "rain")  # of the built-in scenes
folder = output / "labels"
folder.mkdir(exist_ok=True)
if not INPUT:
    # What is heard in the first half of the scenes, as somebody might have written it down.
    heard = read_annotations(recordings / "annotations.csv")
    with open(folder / "scenes.csv", "w", newline="") as text:
        table = csv.writer(text)
        table.writerow(["file", "start", "end", "label"])
        for name in sorted(clips.names, key=lambda name: name.split("/")[1])[: len(clips) // 2]:
            own = [a for a in heard if a.recording == name and a.label in CLASSES]
            table.writerows([name, a.start, a.end, a.label] for a in own)
            if not own:
                table.writerow([name, 0, 5, "-"])

if LABELS == "upload":
    from google.colab import files

    files.upload(target_dir=str(folder))
    LABELS = ""
if LABELS or any(folder.iterdir()):
    annotations = read_annotations(LABELS or folder)
    for a in annotations[:8]:
        print(f"{a.start:6.2f} to {a.end:5.2f} s  {a.label or '-':12} {a.recording}")
else:
    annotations = []
    windows = windows_of(read_rows(output / "index", "mixture"))
    page = output / "label.html"
    page.unlink(missing_ok=True)
    write_suggestions(page, windows, suggest_windows(windows, 20), [])
    display(show_page(page))

# %% [markdown]
# ## Train

# %%
from sepssl.pipelines.classify import train_on_labels
from sepssl.reports.tables import classes_table

assert annotations, "no labels yet: give some in the page above, save them, and run its cell again"
classifier, reports, labels = train_on_labels([output / "index"], annotations)
print(classes_table(reports))
(output / "classifier.npz").unlink(missing_ok=True)
classifier.save(output / "classifier.npz")

# %% [markdown]
# Every class is validated on recordings that it has not learned from. Compare the average precision
# (AP) with chance, and mind its interval: with labels in ten recordings it is wide. Classes differ:
# put `"dog_bark"` into `CLASSES` above, and see that this encoder has little to tell it by.
#
# ## What it finds
#
# Windows that reach the threshold of a class, put together where they touch; here the surest ones
# of each class in recordings without labels. Names of built-in scenes tell what is in them, so you
# can see what is right.

# %%
import numpy as np

from sepssl.audio.files import audio_info, read_audio
from sepssl.pipelines.classify import detections, score_windows, write_detections
from sepssl.reports.found import Sound
from sepssl.reports.notebook import show_sounds

windows, scores, best = score_windows(classifier, output / "index")
found = detections(windows, scores, best, classifier.classes, classifier.thresholds)
labelled = {windows.names[window] for window in np.flatnonzero(labels.looked_at)}
rows = []
for name in classifier.classes:
    new = [d for d in found if d.label == name and d.recording not in labelled]
    print(f"{name}: {len(new)} detections in recordings without labels")
    row = []
    for d in sorted(new, key=lambda d: -d.score)[:3]:
        waveform = read_audio(d.path, None, d.start, d.end - d.start)
        label = f"{name} {d.score:.2f}: {d.recording} at {d.start:.1f} s"
        row.append(Sound(label, waveform, audio_info(d.path).sample_rate))
    rows.append(row)
show_sounds(*rows)

# %%
for file in ("found.csv", "found.selections.txt"):
    (output / file).unlink(missing_ok=True)
    write_detections(output / file, found)
    print(output / file)
for d in found[:8]:
    print(f"{d.start:6.2f} to {d.end:5.2f} s  {d.label:12} {d.score:.2f}  {d.recording}")

# %% [markdown]
# ## What to label next
#
# Windows near to a threshold and unlike each other teach the classifier most. Label them, save the
# file, and upload it in the cell *Labels* above, from where you can run the rest again.

# %%
suggested = suggest_windows(windows, 10, scores, classifier.thresholds, annotations)
page = output / "next.html"
page.unlink(missing_ok=True)
write_suggestions(page, windows, suggested, classifier.classes, scores)
show_page(page)

# %% [markdown]
# ## What to try next
#
# - The same in a terminal, and the classifier as a SavedModel, which needs no sepssl to run:
#
# ```sh
# sepssl-embed --input=FOLDER --output=index
# sepssl-classify train --index=index --labels=labels.csv --output=classifier.npz
# sepssl-classify apply --index=index --classifier=classifier.npz --detections=found.csv
# sepssl-export --encoder=small --classifier=classifier.npz --output=saved_model
# ```
#
# - More labels of the class with the lowest AP, and of what it is taken for.
