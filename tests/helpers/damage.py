"""Damaged media: small whole files of every format, seeded damage, and what becomes of it, in a process of its own.

`python -m tests.helpers.damage CASES FORMAT ...` prints the outcomes as JSON; `child` runs any function that way.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tests.helpers.media import tone, write_video

ROOT = Path(__file__).parents[2]
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
PICTURES = (".png", ".jpg")
VIDEOS = (".mp4", ".avi", ".mkv")
FORMATS = (*SOUNDS, *PICTURES, *VIDEOS)


def write_whole(path):
    """A whole file of the format of its extension."""
    import soundfile
    from PIL import Image

    if path.suffix in SOUNDS:
        soundfile.write(path, tone(0.6, 16_000), 16_000)
    elif path.suffix in PICTURES:
        pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    else:
        write_video(path, seconds=0.6, rate=10, size=(48, 32))
    return path


def damaged(content, draw):
    """The content with 1 to 32 flipped bits (half of them in the first 200 bytes, where the headers are), or cut, or both."""
    content = bytearray(content)
    kind = draw.randrange(3)
    if kind > 0:
        for _ in range(2 ** draw.randrange(6)):
            place = draw.randrange(min(len(content), 200) if draw.randrange(2) else len(content))
            content[place] ^= 1 << draw.randrange(8)
    if kind < 2:
        del content[draw.randrange(len(content)) :]
    return bytes(content)


def outcomes(extension, cases):
    """Read damaged files of a format: how many gave values and how many a reason; anything else is raised."""
    from mm_balance.data.features import AUDIO_RECIPES
    from mm_balance.data.files import DecodeError
    from mm_balance.data.frames import read_frames
    from mm_balance.data.memory import limited_memory
    from mm_balance.data.sound import audio_features

    found = Counter()
    with tempfile.TemporaryDirectory() as folder, limited_memory():
        path = Path(folder) / f"clip{extension}"
        whole = write_whole(path).read_bytes()
        for case in range(cases):
            path.write_bytes(damaged(whole, random.Random(f"{extension} {case}")))
            readers = []
            if extension not in PICTURES:
                readers.append(
                    lambda: audio_features(path, AUDIO_RECIPES["logmel64"], 0.5, "tile", "soxr_hq", "none")[0]
                )
            if extension not in SOUNDS:
                readers.append(lambda: read_frames(path, frames_per_second=5.0, count=3, size=16)[0])
            for read in readers:
                try:
                    values = read()
                except DecodeError as error:
                    found[
                        "refused" if len(str(error).splitlines()) == 1 else "refused without a reason in one line"
                    ] += 1
                except Exception as error:
                    raise AssertionError(f"{extension}, case {case}: {error!r}") from error
                else:
                    assert np.isfinite(values).all()
                    found["values"] += 1
    return dict(found)


def peak_mebibytes():
    """Largest memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def child(code, *arguments, seconds=600):
    """Run Python code in a process of its own, with ``growth()`` = MiB by which its peak grew since the code began; return what it
    prints, read as JSON."""
    start = (
        "import json, sys, librosa, numpy as np\n"
        "from pathlib import Path\n"
        "from mm_balance.data.features import AUDIO_RECIPES\n"
        "from mm_balance.data.files import DecodeError\n"
        "from mm_balance.data.frames import read_frames\n"
        "from contextlib import nullcontext\n"
        "from mm_balance.data.memory import limited_memory\n"
        "from mm_balance.data.sound import audio_features, read_sound_file, resample\n"
        "from tests.helpers.damage import peak_mebibytes\n"
        "path = Path(sys.argv[1])\n"
        "resample(np.zeros(1000, np.float32), 8000, 16000)\n"
        "before = peak_mebibytes()\n"
        "growth = lambda: peak_mebibytes() - before\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", start + code, *map(str, arguments)], capture_output=True, text=True, timeout=seconds, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout)


def main(cases, *extensions):
    outcomes(".wav", 3)  # imports everything, and resamples
    before = peak_mebibytes()
    started = time.perf_counter()
    found = {extension: outcomes(extension, int(cases)) for extension in extensions}
    seconds = time.perf_counter() - started
    print(json.dumps({"outcomes": found, "growth": peak_mebibytes() - before, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
