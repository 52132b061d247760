"""Decode frames from images, folders of frames, and videos."""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
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

from mm_balance.data.files import DecodeError, open_regular
from mm_balance.data.memory import memory_errors_named
from mm_balance.data.sound import (
    VIDEO_EXTENSIONS,
    check_length,
    open_container,
    set_up_decoder,
    stated_seconds,
    tracks_of,
)
from mm_balance.errors import reason

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg")
PICTURE_PIXELS = 110_000_000
"""Most pixels of a picture. The largest photographs of phones and medium-format cameras have 102 and 108 million. Decoded as RGB, and
copied twice for resizing, these need 1 GB, whatever the size of the file: 20 KB can declare 169 million pixels."""
PICTURE_BYTES = 1 << 30
"""Most bytes of a picture's file, which is read as a whole: more than twice as many as 108 million pixels have uncompressed."""
TOLERANCE_SECONDS = 1e-3
"""Containers round frame times: a frame that starts at most this late still counts as on time."""


@dataclass(frozen=True)
class ImageFacts:
    """Metadata of a file's frames.

    Attributes:
        valid: number of decoded frames, at least 1.
        width: width of the original frames in pixels, after rotating them upright.
        height: their height, likewise.
        rate: native frames per second; None = not a video.
        seconds: duration; None = not a video.
    """

    valid: int
    width: int
    height: int
    rate: float | None
    seconds: float | None


@memory_errors_named()
def read_frames(path: Path, *, frames_per_second: float, count: int, size: int) -> tuple[np.ndarray, ImageFacts]:
    """Read the frames of an image, a folder of frames, or a video.

    A video is sampled at times 0, 1, 2, ... divided by ``frames_per_second``: the beginning of each interval, as in the
    extraction of GeWu-Lab/OGM-GE_CVPR2022@343dc1d. The frames of a folder are taken one by one, in natural order (``frame2``
    before ``frame10``). The whole frame is resized (bilinear with antialiasing), so a non-square one is squeezed, as in the
    evaluation of the official codes.

    Args:
        path: PNG, JPEG, folder, or video.
        frames_per_second: rate at which a video is sampled.
        count: maximum number of frames.
        size: edge length of the result, pixels.

    Returns:
        ``(count, size, size, 3)`` uint8, the first ``valid`` are frames, the rest 0; and the metadata.

    Raises:
        DecodeError: no frames, truncated, too large, or another reason, stated in the message.
        OSError: the file cannot be opened.
    """
    result = np.zeros((count, size, size, 3), np.uint8)
    if path.is_dir():
        files = sorted((item for item in path.iterdir() if item.suffix.lower() in IMAGE_EXTENSIONS), key=_natural)
        if not files:
            raise DecodeError(f"the folder contains no frames ({', '.join(IMAGE_EXTENSIONS)})")
        for number, file in enumerate(files[:count]):
            try:
                image = open_image(read_picture(file))
            except DecodeError as error:
                raise DecodeError(f"frame {file.name}: {error}") from error
            result[number] = to_square(image, size)
        return result, ImageFacts(min(len(files), count), *image.size, None, None)
    if path.suffix.lower() not in VIDEO_EXTENSIONS:
        image = open_image(read_picture(path))
        result[0] = to_square(image, size)
        return result, ImageFacts(1, *image.size, None, None)
    return _read_video(path, frames_per_second, count, size, result)


def read_picture(path: Path) -> bytes:
    """Return the bytes of an image file. Raises DecodeError if it is not a regular file or too large, OSError if it cannot be read."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > PICTURE_BYTES:
            raise DecodeError(f"the file has more than {PICTURE_BYTES:,} bytes")
        return file.read()


def _natural(path: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _read_video(
    path: Path, frames_per_second: float, count: int, size: int, result: np.ndarray
) -> tuple[np.ndarray, ImageFacts]:
    with open_container(path) as container:
        if not container.streams.video:
            raise DecodeError(f"no video track (it has {tracks_of(container)})")
        stream = container.streams.video[0]
        set_up_decoder(stream)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        stated = stated_seconds(container, stream)
        frames = _Frames(container, stream, float(rate))
        written = 0
        shown: Any = None  # the frame on screen; converted to an image only if needed, because that is expensive
        for time, frame in frames:
            while written < count and shown is not None and time > written / frames_per_second + TOLERANCE_SECONDS:
                result[written] = to_square(_upright(shown), size)
                written += 1
            if written == count:
                break
            shown = frame
        if shown is None:
            raise DecodeError(f"no frame can be decoded{frames.broken and f' ({frames.broken})'}")
        if written < count:
            check_length(frames.seconds, stated, "video", frames.broken)
            # The last frame stays on screen until the end.
            while written < count and (
                written == 0 or written / frames_per_second < frames.seconds - TOLERANCE_SECONDS
            ):
                result[written] = to_square(_upright(shown), size)
                written += 1
        width, height = _upright(shown).size
        seconds = frames.seconds if stated is None else stated
        return result, ImageFacts(written, width, height, float(rate), seconds)


class _Frames:
    """Iterator over the frames of a video with their times since the first frame; stops at a decoding error.

    Attributes:
        seconds: duration decoded so far.
        broken: message of the decoding error, empty = none.
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
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError) as error:
            self.broken = reason(error)


def _upright(frame: Any) -> Image.Image:
    """Convert a frame to an image, rotated upright: phones store portrait videos sideways, with a rotation flag."""
    try:
        image: Image.Image = frame.to_image(threads=1)
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError) as error:
        raise DecodeError(f"a frame cannot be converted to a picture ({reason(error)})") from error
    quarter_turns = round((frame.rotation or 0) / 90) % 4 if hasattr(frame, "rotation") else 0
    return image.rotate(90 * quarter_turns, expand=True) if quarter_turns else image


@memory_errors_named()
def open_image(content: bytes) -> Image.Image:
    """Decode a PNG or JPEG file to an RGB image.

    The EXIF orientation is applied, transparency is dropped, and 16-bit gray is scaled to 8 bits.

    Args:
        content: the bytes of the file.

    Raises:
        DecodeError: not a PNG or JPEG, truncated, of more than ``PICTURE_PIXELS``, or not enough memory.
    """
    if not content:
        raise DecodeError("the file is empty (0 bytes)")
    if content[:4] == b"\x89PNG" and b"IEND" not in content:
        # Pillow does not notice a missing end if all pixels are there.
        raise DecodeError("cannot be decoded as PNG or JPEG (truncated: the end of the PNG is missing)")
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 million pixels on, and refuses 179 million.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        if image.width * image.height > PICTURE_PIXELS:
            raise DecodeError(
                f"{image.width:,} x {image.height:,} pixels, more than {PICTURE_PIXELS:,} in all; make the picture smaller"
            )
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # a copy would cost as much as decoding
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DecodeError(f"cannot be decoded as PNG or JPEG ({reason(error)})") from error
    if image.mode.startswith("I"):  # convert() would clip 16-bit values at 255
        image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def to_square(image: Image.Image, size: int) -> np.ndarray:
    """Resize the whole image to ``(size, size, 3)`` uint8.

    Resizing with torch takes a third of Pillow's time; one value in a few hundred differs, by one.
    """
    if image.size == (size, size):
        return np.asarray(image)
    # With these strides torch recognizes channels-last memory and keeps it.
    pixels = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)
    square = functional.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    return square[0].permute(1, 2, 0).numpy()


def color_moments(frames: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and mean square of red, green and blue over ``(frames, height, width, 3)`` uint8, scaled to 0-1."""
    # From a histogram: exact and ten times as fast as reducing over all but the last dimension.
    stacked = Image.fromarray(frames.reshape(-1, *frames.shape[2:]))
    shares = np.reshape(stacked.histogram(), (3, 256)) / (stacked.width * stacked.height)
    values = np.arange(256) / 255
    return (shares @ values).tolist(), (shares @ np.square(values)).tolist()


def read_gray_image(content: bytes) -> np.ndarray:
    """Decode the bytes of an image file to ``(height, width)`` uint8 without resizing."""
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image.convert("L"))
