"""Real files for tests: encoded here, so that no media need to be shipped."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

GRID = Path(__file__).parents[2].parent / "shared" / "data" / "grid"
"""Real talking faces, where they are at hand."""
WATCH = GRID.parent / "watch"
"""Real windows of a watch's two sensors, drawn as pictures, where they are at hand."""
VIDEO_CODECS = {".mp4": "libx264", ".flv": "flv", ".mpg": "mpeg1video", ".mkv": "libx264", ".avi": "mpeg4"}
SOUND_CODECS = {".mp4": "aac", ".flv": "mp3", ".mpg": "mp2", ".mkv": "aac", ".avi": "mp3"}


def tone(seconds=1.0, rate=44_100, frequency=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_video(path: Path, *, seconds=2.0, rate=25, size=(96, 72), sound=True, picture=True, sound_seconds=None,
                frames=None, level=0.5, frequency=440.0, draw=None, wave=None, options=None):  # fmt: skip
    """A video whose n-th frame has the gray level 10 + n (mod 240), with a tone.

    ``frames`` overrides the number of frames; ``sound=False`` and ``picture=False`` leave a track out. ``draw(n)`` gives other
    frames, ``(height, width)``; ``wave`` is another sound, at 44,100 Hz; ``options`` are those of the container.
    """
    extension = path.suffix.lower()
    with av.open(str(path), "w", container_options=options or {}) as container:
        streams = []
        if picture:
            video = container.add_stream(VIDEO_CODECS[extension], rate=rate)
            video.width, video.height, video.pix_fmt = *size, "yuv420p"
            video.time_base = Fraction(1, rate)
            streams.append(video)
        if sound:
            audio = container.add_stream(SOUND_CODECS[extension], rate=44_100, layout="stereo")
            streams.append(audio)
        if sound:
            if wave is None:
                wave = tone(seconds if sound_seconds is None else sound_seconds, 44_100, frequency, level)
            step = audio.codec_context.frame_size or 1152
            for start in range(0, len(wave), step):
                part = np.repeat(wave[None, start : start + step], 2, axis=0)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout="stereo")
                frame.sample_rate, frame.pts = 44_100, start
                converter = av.AudioResampler(format=audio.codec_context.format, layout="stereo", rate=44_100)
                for converted in converter.resample(frame):
                    converted.pts = start
                    container.mux(audio.encode(converted))
            container.mux(audio.encode(None))
        if picture:
            for number in range(round(seconds * rate) if frames is None else frames):
                values = np.full((size[1], size[0], 3), 10 + number % 240, np.uint8)
                if draw is not None:
                    values[:] = draw(number)[..., None]
                frame = av.VideoFrame.from_ndarray(values, format="rgb24")
                frame.pts = number
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
    return path
