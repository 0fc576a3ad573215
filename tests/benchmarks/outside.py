"""The separators that ship, on sound that they have not learned from: tables and pictures.

    python tests/benchmarks/outside.py --input=PACKAGES --output=DIR

PACKAGES has a folder for each of these packages, as unpacked. Of Debian 12, by
`apt-get download PACKAGE && dpkg -x PACKAGE_*.deb PACKAGES/PACKAGE`:

- alsa-utils 1.2.8-1 (GPL-2), pocketsphinx-testdata 0.8+5prealpha+1-15 (BSD-2): speech;
- lincity-ng-data 2.9~git20150314-5 (GPL-2+), unknown-horizons 2019.1-6 (CC BY-SA 3.0): scenes,
  sound effects and music of games;
- sonic-pi-samples 3.2.2~repack-8 (CC0; of Freesound, no clip of ESC-50 is of the same recordings);
- supercollider-common 1:3.13.0+repack-1 (GPL-2+): a voice;
- tuxpaint-stamps-default 2022.06.04-1 (GPL-2): animals, instruments and vehicles.

Of PyPI, by `pip download --no-deps --no-binary :all: PACKAGE` and
`tar -xf PACKAGE*.tar.gz -C PACKAGES`:

- pykanto 0.1.8 (MIT; its storm petrels CC BY-NC-ND 2.5): great tits, a Bengalese finch, storm
  petrels;
- vocalpy 0.10.3 (BSD-3; its Bengalese finch CC BY 4.0): birds, a fruit fly.

DIR receives `recordings.md`, what the separators make of the recordings as they are; `mixtures.md`,
scores on mixtures of isolated sounds, whose sources are therefore known; and three pictures.

A mixture is 4 s of sounds of different kinds (or of one kind), each cut at random or padded with
zeros; a level is of the mean power over the 4 s. The score of a mixture is that of
`SeparationScores`; those of mixtures are averaged, with a 95 % interval by bootstrap over mixtures.
The same sounds come back in several mixtures, which the interval does not see.
"""

import argparse
import io
import pathlib

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import sepssl
from sepssl.audio.files import read_audio
from sepssl.audio.spectrogram import spectrogram_db
from sepssl.configs import separator_shipped
from sepssl.separation.build import make_separator
from sepssl.separation.metrics import SeparationScores, matched_si_snr, si_snr
from sepssl.separation.oracle import oracle_masks

RATE = 16000
SECONDS = 4.0
RMS = 0.1  # of a mixture
EACH = 30  # mixtures of every sort
ACTIVE_DB = -20.0  # relative to a recording's loudest channel
TUXPAINT = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps/"
SONIC_PI = "sonic-pi-samples/usr/share/sonic-pi/samples/"
HORIZONS = "unknown-horizons/usr/share/unknown-horizons/content/audio/"
LINCITY = "lincity-ng-data/usr/share/games/lincity-ng/sounds/"
AUSTEN = "pocketsphinx-testdata/usr/share/pocketsphinx/test/data/librivox/sense_and_sensibility_01_"
ALSA = "alsa-utils/usr/share/sounds/alsa/"
PYKANTO = "pykanto-0.1.8/pykanto/data/"
VOCALPY = "vocalpy-0.10.3/src/vocalpy/examples/"


def files(prefix: str, names: str, suffix: str) -> list[str]:
    return [f"{prefix}{name}{suffix}" for name in names.split()]


ISOLATED = {
    "speech": [
        *files(f"{AUSTEN}austen_64kb-", "0870 0880 0890 0920 0930", ".wav"),
        *files(ALSA, "Front_Center Rear_Left Side_Right", ".wav"),
    ],
    "birds": [
        *files(f"{TUXPAINT}animals/birds/", "blackbird seagull duck crow", ".ogg"),
        *files(
            f"{PYKANTO}segmented/great_tit/WAV/2021-", "B32-0415_05-9 SW83-0418_04-79", ".wav"
        ),
        *files(VOCALPY, "samba", ".wav"),
    ],
    "mammals": files(
        f"{TUXPAINT}animals/",
        "mammals/badger mammals/cats/tiger mammals/bovines/bison mammals/equines/donkey "
        "mammals/elephant mammals/deer/deer mammals/bears/bear marsupials/koala",
        ".ogg",
    ),
    "insects": files(
        f"{TUXPAINT}animals/insects/", "bee mosquito grasshopper hornet", ".ogg"
    ),
    "tones": [  # instruments that hold a pitch
        *files(SONIC_PI, "guit_em9 guit_e_slide guit_harmonics perc_bell", ".flac"),
        *files(f"{TUXPAINT}hobbies/music/", "wind/bassoon string/cello string/violin", ".ogg"),
    ],
    "drums": [
        *files(SONIC_PI, "loop_amen_full drum_roll", ".flac"),
        *files(f"{TUXPAINT}hobbies/music/percussion/", "drumkit cymbal_crash", ".ogg"),
    ],
    "machines": [
        *files(SONIC_PI, "loop_3d_printer vinyl_hiss", ".flac"),
        *files(f"{TUXPAINT}", "vehicles/emergency/firetruck town/flags/checkeredflag", ".ogg"),
        *files(LINCITY, "DirtTrack2", ".wav"),
    ],
}  # fmt: skip
RECORDINGS = [
    *files(f"{HORIZONS}sounds/", "warehouse sheepfield tavern main_square windmill", ".ogg"),
    *files(f"{HORIZONS}sounds/", "lumberjack_long chapel", ".ogg"),
    f"{HORIZONS}music/Peer Gynt Suite No. 1, Op. 46 - I. Morning.ogg",
    *files(f"{HORIZONS}music/", "irelands_coast waves", ".ogg"),
    *files(LINCITY, "ParklandLake1 RailTrain2 Farm2 MarketFull1 SportsCroud3 Fire3", ".wav"),
    *files(f"{TUXPAINT}", "vehicles/emergency/firetruck space/apollo_lander", ".ogg"),
    *files(f"{PYKANTO}raw/BENGALESE_FINCH/bird_3/", "348", ".wav"),
    *files(f"{PYKANTO}raw/STORM-PETREL/", "XC46092 XC663885", ".wav"),
    *files(VOCALPY, "bl26lb16 fruitfly-song-multichannel", ".wav"),
    *files(SONIC_PI, "loop_amen_full ambi_sauna", ".flac"),
    "supercollider-common/usr/share/SuperCollider/sounds/a11wlk01.wav",
]
# What a mixture consists of: name, levels in dB, of different kinds or of one.
SORTS = [
    ("2, 0 dB", (0.0, 0.0), True),
    ("2, 6 dB apart", (0.0, -6.0), True),
    ("3, 0 dB", (0.0, 0.0, 0.0), True),
    ("3, 6 dB apart", (6.0, 0.0, -6.0), True),
    ("2 of a kind", (0.0, 0.0), False),
]


def power(x):
    return np.mean(np.square(x, dtype=np.float64), axis=-1)


def decibels(ratio):
    return 10 * np.log10(np.maximum(ratio, 1e-12))


def part(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    samples = round(SECONDS * RATE)
    if len(sound) >= samples:
        start = rng.integers(len(sound) - samples + 1)
        return sound[start : start + samples]
    before = rng.integers(samples - len(sound) + 1)
    return np.pad(sound, (before, samples - len(sound) - before))


def draw(sounds, levels, differ, rng):
    """Names of the sounds, their kinds, and the sources [count, samples] at their levels."""
    kinds = sorted(sounds)
    if differ:
        chosen = [str(k) for k in rng.choice(kinds, len(levels), replace=False)]
        names = [str(rng.choice(sorted(sounds[k]))) for k in chosen]
    else:
        chosen = [str(rng.choice(kinds))] * len(levels)
        names = [str(n) for n in rng.choice(sorted(sounds[chosen[0]]), len(levels), replace=False)]
    while True:  # a cut may fall into a pause
        sources = [part(sounds[k][n], rng) for k, n in zip(chosen, names, strict=True)]
        if min(power(s) for s in sources) > 1e-7:
            break
    sources = [
        s * 10 ** (db / 20) / np.sqrt(power(s)) for s, db in zip(sources, levels, strict=True)
    ]
    sources = np.stack(sources)
    sources *= RMS / np.sqrt(power(sources.sum(axis=0)))
    return names, chosen, sources.astype(np.float32)


def estimates_of(separators, mixture, sources):
    found = {
        name: np.asarray(separator.predict_on_batch(mixture[None]))[0]
        for name, separator in separators.items()
    }
    found["oracle binary mask"] = oracle_masks(mixture, sources, RATE)["binary"]
    return found


def scores_of(mixture, sources, estimates):
    scores = SeparationScores()
    scores.add(mixture, sources, estimates)
    return scores.result()


def improvements(mixture, sources, estimates):
    """Of every source, matched to a channel: SI-SNR above the mixture's."""
    rows, _, values = matched_si_snr(sources, estimates)
    gains = np.full(len(sources), np.nan)
    gains[rows] = values - si_snr(sources[rows], mixture[None])
    return gains


def share(values) -> str:
    return "" if values is None else f"{100 * np.mean(values):.0f} %"


def mean_with_interval(values) -> str:
    if values is None:
        return ""
    values = np.array([v for v in values if not np.isnan(v)])
    draws = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return f"{values.mean():.1f} ({low:.1f} to {high:.1f})"


def table(header, rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def draw_channels(target, columns, titles, seconds):
    """Spectrograms relative to the loudest point of the first: [column][row], None for a gap."""
    height = max(map(len, columns))
    figure = Figure((4.2 * len(columns), 1.25 * height + 0.35), dpi=80, layout="constrained")
    axes = figure.subplots(height, len(columns), sharex=True, sharey=True, squeeze=False)
    loudest = spectrogram_db(columns[0][0], RATE).max()
    for j, (column, names) in enumerate(zip(columns, titles, strict=True)):
        for i in range(height):
            if i >= len(column) or column[i] is None:
                axes[i, j].set_axis_off()
                continue
            axes[i, j].imshow(
                spectrogram_db(column[i], RATE)[:, ::2] - loudest,
                "magma",
                vmin=-70,
                vmax=0,
                aspect="auto",
                origin="lower",
                extent=(0, seconds, 0, RATE / 2000),
            )
            axes[i, j].set_title(names[i], fontsize=8, pad=3)
    figure.supxlabel("time (s)", fontsize=8)
    figure.supylabel("frequency (kHz)", fontsize=8)
    drawn = io.BytesIO()
    figure.savefig(drawn)
    Image.open(drawn).convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE).save(target)


def channel_titles(channels, recording):
    levels = decibels(power(channels) / power(recording))
    return [f"channel {i}, {level:.0f} dB" for i, level in enumerate(levels, 1)]


def report_recordings(separators, folder) -> str:
    rows = []
    for name in RECORDINGS:
        sound = read_audio(folder / name, RATE)
        row = [pathlib.Path(name).stem.partition(" Suite")[0], f"{len(sound) / RATE:.1f}"]
        for separator in separators.values():
            channels = separator.separate(sound, RATE)
            error = decibels(power(channels.sum(axis=0) - sound) / power(sound))
            assert error < -60, f"{name}: channels add up to it only within {error:.0f} dB"
            levels = np.sort(decibels(power(channels) / power(sound)))[::-1]
            active = levels[levels >= levels[0] + ACTIVE_DB]
            row += [len(active), " ".join(f"{level:.0f}" for level in active)]
        rows.append(row)
        print(*row, sep="  ", flush=True)
    header = ["recording", "s"]
    for name in separators:
        header += [f"{name}: active", "dB"]
    return table(header, rows)


def report_mixtures(separators, sounds, rng):
    """The tables, and of each sort the mixtures with their scores by `small`."""
    scores: dict = {}
    by_kind: dict = {}
    surplus: dict = {}
    drawn: dict = {}
    single = [(k, n) for k in sorted(sounds) for n in sorted(sounds[k])]
    for kind, name in single:
        source = part(sounds[kind][name], rng)
        source = (source * RMS / np.sqrt(power(source)))[None].astype(np.float32)
        for who, separator in separators.items():
            found = np.asarray(separator.predict_on_batch(source))[0]
            result = scores_of(source[0], source, found)
            scores.setdefault((who, "1S"), []).append(result.get("1S", np.nan))
            surplus.setdefault((who, "one sound"), []).append(result["over"])
    for sort, levels, differ in SORTS:
        for _ in range(EACH):
            names, kinds, sources = draw(sounds, levels, differ, rng)
            mixture = sources.sum(axis=0)
            for who, found in estimates_of(separators, mixture, sources).items():
                result = scores_of(mixture, sources, found)
                scores.setdefault((who, sort), []).append(result.get("MSi", np.nan))
                if differ:
                    scores.setdefault((who, "MSi"), []).append(result.get("MSi", np.nan))
                    for count in ("under", "over"):
                        surplus.setdefault((who, count), []).append(result[count])
                    gains = improvements(mixture, sources, found)
                    for kind, gain in zip(kinds, gains, strict=True):
                        by_kind.setdefault((who, kind), []).append(gain)
                if who == "small":
                    drawn.setdefault(sort, []).append(
                        (result.get("MSi", -99), names, sources, found)
                    )
        print(f"mixtures of {sort}: done", flush=True)
    systems = list(dict.fromkeys(who for who, _ in scores))
    columns = ["MSi", *(sort for sort, *_ in SORTS), "1S"]
    tables = [
        table(
            ["dB", *columns],
            [
                [who, *(mean_with_interval(scores.get((who, c))) for c in columns)]
                for who in systems
            ],
        ),
        table(
            ["", "under", "over", "over, of one sound"],
            [
                [who] + [share(surplus.get((who, c))) for c in ("under", "over", "one sound")]
                for who in systems
            ],
        ),
        table(
            ["SI-SNRi of", *systems],
            [
                [f"{kind} ({len(sounds[kind])} sounds)"]
                + [mean_with_interval(by_kind[who, kind]) for who in systems]
                for kind in sorted(sounds)
            ],
        ),
    ]
    return "\n".join(tables), drawn


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    sounds = {
        kind: {name: read_audio(options.input / name, RATE) for name in names}
        for kind, names in ISOLATED.items()
    }
    shipped = {name: sepssl.load_separator(name) for name in separator_shipped.NAMES}
    recordings = report_recordings(shipped, options.input)
    (options.output / "recordings.md").write_text(recordings)
    keras.utils.set_random_seed(0)
    untrained = make_separator(separator_shipped.get_config("small").separator, RATE)
    separators = shipped | {"untrained": untrained}
    tables, drawn = report_mixtures(separators, sounds, np.random.default_rng(0))
    (options.output / "mixtures.md").write_text(tables)
    print(tables)
    for name, seconds in (("warehouse", 11.3), ("sheepfield", 12.0)):
        sound = read_audio(options.input / f"{HORIZONS}sounds/{name}.ogg", RATE)
        sound = sound[: round(seconds * RATE)]
        channels = shipped["small"].separate(sound, RATE)
        titles = [f"{name}.ogg", *channel_titles(channels, sound)]
        target = options.output / f"outside_{name}.png"
        draw_channels(target, [[sound, *channels]], [titles], seconds)
    ranked = sorted(drawn[SORTS[0][0]], key=lambda row: row[0])
    for place, row in (("best", ranked[-1]), ("median", ranked[EACH // 2]), ("worst", ranked[0])):
        score, names, sources, channels = row
        print(f"{place} of {SORTS[0][0]}: {score:.1f} dB, {', '.join(names)}")
        if place == "median":
            mixture = sources.sum(axis=0)
            titles = ["mixture", *channel_titles(channels, mixture)]
            draw_channels(
                options.output / "outside_median.png",
                [[mixture, *channels], [None, *sources]],
                [titles, ["", *(pathlib.Path(n).name for n in names)]],
                SECONDS,
            )


if __name__ == "__main__":
    main()
