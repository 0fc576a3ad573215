# %% [markdown]
# # Separate your recordings
#
# A separator splits a recording into channels, ideally with one sound in each.
# Those that come with sepssl have learned that without labels. The built-in scenes take under a
# minute on two CPU cores, and an hour of recordings some minutes.

# %% cellView="form"
# @title Your recordings
# @markdown A folder or a sound file: a path such as `/content/drive/MyDrive/recordings`, or
# @markdown `upload` to choose files on your computer. Left empty: scenes that sepssl makes itself.
INPUT = ""  # @param {type: "string"}
# @markdown Where the results go. A folder on Drive outlives this session.
OUTPUT = "separated"  # @param {type: "string"}
# @markdown `small` has four channels and leaves single sounds whole; `small-8` and `small-mixit`
# @markdown have eight, and split more.
SEPARATOR = "small"  # @param ["small", "small-8", "small-mixit"]

import pathlib

from sepssl.pipelines.colab import chosen_recordings

output = pathlib.Path(OUTPUT)
recordings = chosen_recordings(INPUT, output, scenes=6)
print(f"recordings: {recordings}")

# %% [markdown]
# ## One recording, to see and to hear
#
# `RECORDING` counts from 0, in the order of names; of a long one, ten seconds from `START` are
# shown.

# %%
RECORDING = 0  # @param {type: "integer"}
START = 0.0  # @param {type: "number"}

import numpy as np

import sepssl
from sepssl.pipelines.separate import open_recordings, separate_recordings
from sepssl.reports.found import Sound
from sepssl.reports.notebook import show_sounds

separator = sepssl.load_separator(SEPARATOR)
rate = separator.sample_rate
clips = open_recordings(recordings, rate, exclude=output / "channels")
mixture = clips.read(RECORDING, round(START * rate), 10 * rate)
channels = separator.separate(mixture, rate)  # [channels, samples]

levels = 10 * np.log10(np.mean(channels**2, axis=1) / np.mean(mixture**2) + 1e-10)
sounds = [Sound(clips.names[RECORDING], mixture, rate)]
for number in np.argsort(-levels):  # the loudest first
    sounds.append(Sound(f"channel {number + 1}, {levels[number]:.0f} dB", channels[number], rate))
difference = np.abs(channels.sum(axis=0) - mixture).max()
print(f"largest difference between the channels' sum and the recording: {difference:.1e}")
show_sounds(sounds)

# %% [markdown]
# The first picture is the recording, the others are its channels; levels are relative to the
# recording. A channel at -40 dB or below holds next to nothing: the separator did not need it.
# Channels of `small-8` leave out what it takes for no sound's, so their sum differs.
# Which channel a sound ends up in means nothing.
#
# Try another `RECORDING`, or another separator in the form. What these separators can and cannot
# do, in numbers, is on the page [Models](../docs/models.md) of the documentation.

# %% [markdown]
# ## All of them, as files
#
# Recordings may be hours long. If the session ends early, run this again: what is done is left as
# it is.

# %%
summary = separate_recordings(separator, clips, output / "channels")
for reason in summary.skipped:
    print("skipped:", reason)
print(summary.table.read_text())

# %% [markdown]
# Beside the channels, `summary.csv` (above) has the level of each channel and the share of the time
# in which it is active, and `intervals.csv` (below) says when. The same intervals are there as
# selection tables for Raven and as label tracks for Audacity.

# %%
print("\n".join(summary.intervals.read_text().splitlines()[:12]))

# %% [markdown]
# ## Download

# %%
import shutil
import sys

archive = shutil.make_archive(str(output / "channels"), "zip", output / "channels")
print(archive)
if "google.colab" in sys.modules:
    from google.colab import files

    files.download(archive)

# %% [markdown]
# ## What to try next
#
# - The same in a terminal; `--clips` also writes the sound of every interval to a file of its own:
#
# ```sh
# sepssl-separate --separator=small --input=FOLDER --output=channels --clips
# ```
#
# - `search.ipynb` gives every channel a vector, so that quiet sounds below loud ones are found.
# - `train.ipynb` trains a separator on your own recordings.
