"""Writes a page on which the windows of an index are points; near ones sound alike.

sepssl-map --index=DIR --output=map.html [--labels=FILE_OR_FOLDER] [--self_contained]

A click on a point plays it. Points are coloured and filtered by folder, label and channel, and
coloured by the time of day that recorders put into names. The page needs no network; it plays the
recordings themselves, which it refers to by their place relative to its own. With --self_contained
it holds their sound, and can be moved and mailed.

Example:
  sepssl-map --index=index --output=map.html

Results: one page, to open in a browser.

Next:
  sepssl-search --index=index --query_row=recording.wav@12.5 --output=found.html
"""

import sys

from absl import flags

from sepssl.cli.checks import require_exists, require_new_file
from sepssl.cli.main import run as run_command

TENSORFLOW = False


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "index",
        None,
        "Index, or .npz, .csv or .parquet file, that sepssl-embed has written.",
        required=True,
        flag_values=values,
    )
    flags.DEFINE_string(
        "output",
        None,
        ".html file to write.",
        required=True,
        allow_overwrite=False,
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "labels",
        [],
        "File or folder of labels, as sepssl-classify takes them; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "rows",
        "both",
        ["mixture", "both"],
        "Rows of recordings only, or those of channels too.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "method",
        "tsne",
        ["tsne", "umap", "pca"],
        "How vectors are placed in the plane; umap needs the extra of that name.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "limit", 20_000, "Of more rows, as many are drawn at random.", 2, flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "Of the draw and the placement.", 0, flag_values=values)
    flags.DEFINE_boolean(
        "self_contained",
        False,
        "The page holds the sound of the recordings, of up to half an hour.",
        flag_values=values,
    )


def check(values: flags.FlagValues) -> None:
    from sepssl.evaluation.projection import require_method

    require_exists(values.index, "an index or a file of rows")
    for path in values.labels:
        require_exists(path, "labels")
    require_new_file(values.output, (".html",))
    require_method(values.method)


def main(values: flags.FlagValues) -> None:
    from sepssl.data.annotations import read_annotations
    from sepssl.pipelines.map import write_map

    annotations = [a for path in values.labels for a in read_annotations(path)]
    count, total = write_map(
        values.index,
        values.output,
        annotations,
        values.rows,
        values.method,
        values.limit,
        values.seed,
        values.self_contained,
    )
    drawn = f", drawn at random from {total} rows (--limit)" if count < total else ""
    print(f"{values.output}: {count} points{drawn}")


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
