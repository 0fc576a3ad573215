# %% [markdown]
# # A first look at your recordings
#
# Your recordings go through the models that come with sepssl: they are split into channels, turned
# into vectors, searched, and laid out on a map. Then both models train on them for a moment. It
# takes about three minutes on two CPU cores, and nothing is downloaded but sepssl itself.
#
# Run the cells from top to bottom (*Runtime → Run all*).

# %% cellView="form"
# @title Your recordings
# @markdown A folder or a sound file: a path such as `/content/drive/MyDrive/recordings`, or
# @markdown `upload` to choose files on your computer. Left empty: scenes that sepssl makes itself.
INPUT = ""  # @param {type: "string"}
# @markdown Where the results go. A folder on Drive outlives this session.
OUTPUT = "first-look"  # @param {type: "string"}

import pathlib

from sepssl.pipelines.colab import chosen_recordings

output = pathlib.Path(OUTPUT)
recordings = chosen_recordings(INPUT, output, scenes=40)
print(f"recordings: {recordings}")

# %% [markdown]
# ## One call
#
# Up to 40 excerpts of 5 s are used, the loudest part of each recording, or several of each if there
# are few. If the run is interrupted, run the cell again: it continues where it stopped.

# %%
from sepssl.configs.quickstart import get_config
from sepssl.pipelines.quickstart import quickstart

config = get_config()
config.update(input=str(recordings), excerpts=40, shown=3, queries=3)
paths = quickstart(config, output / "run")

# %% [markdown]
# ## What it has found
#
# - **What is in them**: excerpts, each beside the channels that the separator has split it into. It
#   was never told what is in a recording; a good channel holds one sound and little of the others.
# - **Find this sound**: a channel, and the windows of other recordings that are nearest to it.
# - **Map**: every window is a point, and near points sound alike. Click on points and listen.
# - **A moment of training**: the losses of both models on your recordings.

# %%
from sepssl.reports.notebook import show_page

show_page(paths.page, height=900)

# %% [markdown]
# ## What to try next
#
# - Put your own folder into the form at the top, and another name for the results.
# - `separate.ipynb` splits whole recordings, `search.ipynb` indexes a folder and finds sounds in
#   it, `classify.ipynb` learns classes of sounds from a few labels, `train.ipynb` trains on your
#   recordings.
# - The same in a terminal, which leaves the page as `first-look/index.html`:
#
# ```sh
# sepssl-quickstart --workdir=first-look --input=FOLDER
# ```
