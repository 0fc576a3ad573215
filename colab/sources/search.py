# %% [markdown]
# # Embed, search and map a folder
#
# An encoder turns every window of sound into a vector, and near vectors sound alike. With those of
# the separated channels beside them, a quiet sound under a loud one has a vector of its own. Here a
# folder is indexed once, then searched by example, then laid out on a map. It takes about a minute
# on two CPU cores for the built-in scenes.

# %% cellView="form"
# @title Your recordings
# @markdown A folder or a sound file: a path such as `/content/drive/MyDrive/recordings`, or
# @markdown `upload` to choose files on your computer. Left empty: scenes that sepssl makes itself.
INPUT = ""  # @param {type: "string"}
# @markdown Where the results go. A folder on Drive outlives this session.
OUTPUT = "searched"  # @param {type: "string"}
ENCODER = "small"  # @param {type: "string"}
# @markdown Empty: vectors of the recordings alone, in a fraction of the time.
SEPARATOR = "small"  # @param {type: "string"}
# @markdown Seconds of a window: about as long as the sounds that you look for.
WINDOW = 2.5  # @param {type: "number"}

import pathlib

from sepssl.pipelines.colab import chosen_recordings

output = pathlib.Path(OUTPUT)
recordings = chosen_recordings(INPUT, output, scenes=60)
print(f"recordings: {recordings}")

# %% [markdown]
# ## Index
#
# If the session ends early, run this again: it continues where it stopped. Repeated later, it adds
# recordings that are new.

# %%
import sepssl
from sepssl.pipelines.embed import embed_recordings
from sepssl.weights import reference

encoder = sepssl.load_encoder(ENCODER)
separator = sepssl.load_separator(SEPARATOR) if SEPARATOR else None
models = {"encoder": reference(ENCODER, "Encoder")}
if SEPARATOR:
    models["separator"] = reference(SEPARATOR, "Separator")
clips = sepssl.open_clips(recordings, encoder.sample_rate)
summary = embed_recordings(encoder, clips, output / "index", separator, WINDOW, models=models)
for skipped in summary.skipped:
    print("skipped:", skipped.reason)
print(f"{summary.rows} rows for {len(clips)} recordings")

# %% [markdown]
# ## Search by example
#
# The example is a place in an indexed recording, `NAME@SECONDS`, or the path of any other sound
# file. Left empty, it is rain in a built-in scene, or the first sound of your recordings.

# %%
QUERY = ""  # @param {type: "string"}

from sepssl.index.search import WindowIndex
from sepssl.pipelines.search import embed_query, row_of, sounds_of, write_results
from sepssl.reports.found import found_table
from sepssl.reports.notebook import show_page, show_sounds

index = WindowIndex(output / "index")
if pathlib.Path(QUERY).is_file():
    vector, name = embed_query(index, encoder, QUERY), ""
else:
    rain = "farm/21-crow-rain.wav@2.5"
    heard = (str(row.row) for row in index.rows() if index.vector(row.row).any())
    query = row_of(index, QUERY or (next(heard, "1") if INPUT else rain))
    vector, name = index.vector(query.row), query.recording
nearest = {}  # of each recording but the example's own, the window that is nearest
for window in index.search(vector, 500):
    if window.recording != name:
        nearest.setdefault(window.recording, window)
found = list(nearest.values())[:8]
print(found_table(found))

# %%
rows = []
if name:
    (sound,) = sounds_of(query, None)
    rows.append([sound._replace(label=f"the example: {name}")])
for rank, window in enumerate(found[:4], start=1):
    sound, *channel = sounds_of(window, separator)
    label = f"{rank}. {window.recording}, score {window.score:.2f}"
    rows.append([sound._replace(label=label), *channel])
show_sounds(*rows)

# %% [markdown]
# The score is the cosine of the angle between two vectors. Where a channel was found, it stands
# beside its recording: that is the sound which resembles the example. Built-in scenes are named
# after the sounds in them.
#
# The results can be saved as a table, as selections for Raven, as labels for Audacity, or as a page
# with players; the suffix of the file decides.

# %%
for file in ("found.csv", "found.selections.txt", "found.html"):
    (output / file).unlink(missing_ok=True)
    write_results(output / file, found, "Like the example", separator)
    print(output / file)

# %% [markdown]
# ## Map
#
# Every row of the index is a point, placed by t-SNE. A click plays it, the wheel enlarges, and the
# menus colour and filter; try *Channel*, and look for groups that span several folders. The page
# contains the sound. For more than half an hour of recordings, leave `self_contained` out: the page
# then plays the files, beside which it has to stay.

# %%
from sepssl.pipelines.map import write_map

page = output / "map.html"
page.unlink(missing_ok=True)
points, _ = write_map(output / "index", page, self_contained=True)
print(f"{points} points: {page}")
show_page(page, height=860)

# %% [markdown]
# ## What to try next
#
# - Search for something that you hear on the map: put its `NAME@SECONDS` into `QUERY`.
# - The same in a terminal:
#
# ```sh
# sepssl-embed --separator=small --input=FOLDER --output=index
# sepssl-search --index=index --query=SOUND.wav --output=found.html
# sepssl-map --index=index --output=map.html
# ```
#
# - `classify.ipynb` learns classes of sounds from a few labels on such an index.
