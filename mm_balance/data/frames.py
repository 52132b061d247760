"""Files -> pictures: images, folders of frames, videos."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional

from mm_balance.data.sound import (
    VIDEO_EXTENSIONS,
    DecodeError,
    check_length,
    one_line,
    open_container,
    stated_seconds,
    tracks_of,
)

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg")
TOLERANCE_SECONDS = 1e-3
"""Times of frames are rounded by containers; a frame that starts this late still counts as on time."""


@dataclass(frozen=True)
class PictureFacts:
    """What a file says of its pictures.

    Attributes:
        valid: frames found, at least 1.
        width: of the original pictures, pixels, after turning them upright.
        height: likewise.
        rate: own frames per second; None = no video.
        seconds: length; None = no video.
    """

    valid: int
    width: int
    height: int
    rate: float | None
    seconds: float | None


def read_frames(path: Path, *, frames_per_second: float, count: int, size: int) -> tuple[np.ndarray, PictureFacts]:
    """The pictures of an image, a folder of frames, or a video.

    From a video come the frames that are shown at 0, 1, 2, ... divided by ``frames_per_second``: the beginning of each
    interval, as in the extraction of GeWu-Lab/OGM-GE_CVPR2022@343dc1d. The frames of a folder are taken as they are, in
    natural order (``frame2`` before ``frame10``). The whole picture is resized (bilinear with antialiasing), so one that is
    not square is squeezed, as the official codes do in evaluation.

    Args:
        path: PNG, JPEG, folder, or video.
        frames_per_second: of the wanted frames.
        count: at most so many.
        size: edge of the result, pixels.

    Returns:
        ``(count, size, size, 3)`` uint8, of which the first ``valid`` are pictures and the rest 0; and the facts.

    Raises:
        DecodeError: no picture, truncated, or another reason in words.
        OSError: the file cannot be opened.
    """
    result = np.zeros((count, size, size, 3), np.uint8)
    if path.is_dir():
        files = sorted((item for item in path.iterdir() if item.suffix.lower() in IMAGE_EXTENSIONS), key=_natural)
        if not files:
            raise DecodeError(f"the folder holds no frames ({', '.join(IMAGE_EXTENSIONS)})")
        for place, file in enumerate(files[:count]):
            try:
                image = open_image(file.read_bytes())
            except DecodeError as error:
                raise DecodeError(f"frame {file.name}: {error}") from error
            result[place] = to_square(image, size)
        return result, PictureFacts(min(len(files), count), *image.size, None, None)
    if path.suffix.lower() not in VIDEO_EXTENSIONS:
        image = open_image(path.read_bytes())
        result[0] = to_square(image, size)
        return result, PictureFacts(1, *image.size, None, None)
    return _read_video(path, frames_per_second, count, size, result)


def _natural(path: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _read_video(
    path: Path, frames_per_second: float, count: int, size: int, result: np.ndarray
) -> tuple[np.ndarray, PictureFacts]:
    with open_container(path) as container:
        if not container.streams.video:
            raise DecodeError(f"no video track (it has {tracks_of(container)})")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # many files are decoded at once
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        stated = stated_seconds(container, stream)
        frames = _Frames(container, stream, float(rate))
        found = 0
        shown: Any = None  # turned into a picture only where it is wanted: that is the dear part
        for time, frame in frames:
            while found < count and shown is not None and time > found / frames_per_second + TOLERANCE_SECONDS:
                result[found] = to_square(_upright(shown), size)
                found += 1
            if found == count:
                break
            shown = frame
        if shown is None:
            raise DecodeError(f"no picture can be decoded{frames.broken and f' ({frames.broken})'}")
        if found < count:
            check_length(frames.seconds, stated, "video", frames.broken)
            # The last frame is shown until the end.
            while found < count and (found == 0 or found / frames_per_second < frames.seconds - TOLERANCE_SECONDS):
                result[found] = to_square(_upright(shown), size)
                found += 1
        width, height = _upright(shown).size
        seconds = frames.seconds if stated is None else stated
        return result, PictureFacts(found, width, height, float(rate), seconds)


class _Frames:
    """The frames of a video with their times, counted from the first; stops at the first that cannot be decoded.

    Attributes:
        seconds: length of what was decoded so far.
        broken: the decoder's complaint, empty = none.
    """

    def __init__(self, container: Any, stream: Any, rate: float) -> None:
        self._container = container
        self._stream = stream
        self._rate = rate
        self.seconds = 0.0
        self.broken = ""

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        first = None
        try:
            for number, frame in enumerate(self._container.decode(self._stream)):
                time = number / self._rate if frame.time is None else float(frame.time)
                first = time if first is None else first
                self.seconds = max(self.seconds, time - first + 1 / self._rate)
                yield time - first, frame
        except (av.FFmpegError, ValueError) as error:
            self.broken = one_line(error)


def _upright(frame: Any) -> Image.Image:
    """A frame as a picture; telephones store portraits lying down, with a note to turn them."""
    image: Image.Image = frame.to_image(threads=1)
    turns = round((frame.rotation or 0) / 90) % 4 if hasattr(frame, "rotation") else 0
    return image.rotate(90 * turns, expand=True) if turns else image


def open_image(content: bytes) -> Image.Image:
    """A PNG or JPEG file as an RGB picture.

    Its EXIF orientation is respected; transparency is dropped; 16-bit gray is brought to 8 bits.

    Args:
        content: the bytes of the file.

    Raises:
        DecodeError: not a PNG or JPEG, truncated, or suspiciously large (a decompression bomb).
    """
    if not content:
        raise DecodeError("the file is empty (0 bytes)")
    if content[:4] == b"\x89PNG" and b"IEND" not in content:
        # Pillow does not miss the end of a file whose last pixels happen to be there.
        raise DecodeError("cannot be decoded as PNG or JPEG (truncated: the end of the PNG is missing)")
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # a copy would cost as much as decoding
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DecodeError(f"cannot be decoded as PNG or JPEG ({one_line(error)})") from error
    if image.mode.startswith("I"):  # converting would clip 16-bit values at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def to_square(image: Image.Image, size: int) -> np.ndarray:
    """The whole picture as ``(size, size, 3)`` uint8.

    Resized by torch: of what Pillow gives, a value in a few hundred differs, by one, and it takes a third of the time.
    """
    if image.size == (size, size):
        return np.asarray(image)
    # In this order torch sees that colors lie last, and keeps them so.
    pixels = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)
    square = functional.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    return square[0].permute(1, 2, 0).numpy()


def color_moments(frames: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and mean square of red, green and blue over ``(frames, height, width, 3)`` uint8, where 255 counts as 1."""
    # From a histogram: exact, and ten times as fast as sums over the last dimension.
    tall = Image.fromarray(frames.reshape(-1, *frames.shape[2:]))
    shares = np.reshape(tall.histogram(), (3, 256)) / (tall.width * tall.height)
    values = np.arange(256) / 255
    return (shares @ values).tolist(), (shares @ np.square(values)).tolist()


def read_gray_image(content: bytes) -> np.ndarray:
    """The bytes of an image file as ``(height, width)`` uint8, pixel by pixel."""
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image.convert("L"))
