"""Frame selection and augmentation, batched, on the training device.

All random numbers come from a CPU generator that the caller seeds per batch: a resumed run repeats them, and a GPU gets the
same boxes as a CPU. Nothing here synchronizes the GPU with the CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Area fraction and aspect ratio of a random crop: those of torchvision's RandomResizedCrop, as in all official implementations."""
ATTEMPTS = 10


def choose_frames(counts: Tensor, wanted: int, how: str, generator: torch.Generator | None) -> Tensor:
    """Choose which stored frames of each clip to use.

    Args:
        counts: ``(batch,)`` int64 on the CPU, stored frames per clip, at least 1.
        wanted: frames per clip. A clip with fewer stored frames repeats some.
        how: ``random``: one random frame in each of ``wanted`` equal segments of the clip, the middle one in evaluation
            (MMPareto_ICML2024@a339db3, Diagnosing_Relearning_ECCV2024@025085e, BalanceBenchmark@4c1482f);
            ``segment_start``: the first frame of each segment (OGM-GE_CVPR2022@343dc1d on AVE and Kinetics-Sounds,
            MLA@ab6c184); ``first``: the first ``wanted`` frames (as OGM-GE's CREMA-D loader does: it draws random frames
            but does not use them).
        generator: random generator for training; None = evaluation.

    Returns:
        ``(batch, wanted)`` int64, in temporal order.
    """
    segments = torch.arange(wanted)
    if how == "first":
        return torch.minimum(segments.expand(len(counts), -1), counts.unsqueeze(1) - 1)
    if how == "segment_start":
        return segments * counts.unsqueeze(1) // wanted
    if generator is None:
        # Middle of segment k, (k + 1/2) * count / wanted, in integer arithmetic.
        return (2 * segments + 1) * counts.unsqueeze(1) // (2 * wanted)
    position = (segments + torch.rand(len(counts), wanted, generator=generator, dtype=torch.float64)) / wanted
    return torch.minimum((position * counts.unsqueeze(1)).long(), counts.unsqueeze(1) - 1)


def sample_boxes(aspect: Tensor, generator: torch.Generator) -> Tensor:
    """Draw random crops as torchvision's RandomResizedCrop would in the original image.

    Frames are stored squeezed to a square, so boxes are relative, and aspect ratios refer to the original image. After ten
    failed attempts, the largest central crop with an allowed aspect ratio is used. (torchvision rounds boxes to whole pixels
    of the original; these are not rounded.)

    Args:
        aspect: ``(count,)`` float32 on the CPU, width / height of the original images.
        generator: on the CPU.

    Returns:
        ``(count, 4)`` float32: left, top, right, bottom in [0, 1].
    """
    count = len(aspect)
    area = torch.empty(count, ATTEMPTS).uniform_(*SCALE, generator=generator)
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = torch.empty(count, ATTEMPTS).uniform_(low, high, generator=generator).exp()
    # In units of the image's sides: width * height = area, and width * aspect / height = ratio.
    widths = (area * ratio / aspect.unsqueeze(1)).sqrt()
    heights = (area / ratio * aspect.unsqueeze(1)).sqrt()
    fits = (widths <= 1.0) & (heights <= 1.0)
    first = fits.to(torch.int8).argmax(1, keepdim=True)
    any_fits = fits.any(1)
    nearest = aspect.clamp(*RATIO)
    width = torch.where(any_fits, widths.gather(1, first).squeeze(1), (nearest / aspect).clamp(max=1.0))
    height = torch.where(any_fits, heights.gather(1, first).squeeze(1), (aspect / nearest).clamp(max=1.0))
    free = torch.rand(count, 2, generator=generator)
    free = torch.where(any_fits.unsqueeze(1), free, torch.full_like(free, 0.5))
    left, top = free[:, 0] * (1 - width), free[:, 1] * (1 - height)
    return torch.stack([left, top, left + width, top + height], 1).clamp(0.0, 1.0)


def crop_resize(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Crop each image, resize the crop, and flip some of them.

    Args:
        images: ``(count, channels, height, width)`` uint8.
        boxes: ``(count, 4)`` float32 on the CPU: left, top, right, bottom in [0, 1].
        flips: ``(count,)`` bool on the CPU: which to flip horizontally.
        size: edge length of the result, pixels.

    Returns:
        ``(count, channels, size, size)`` uint8 on the device of ``images``. On a GPU all crops are one bilinear sampling; on
        a CPU they are cut at whole pixels and resized one by one with antialiasing, which is ten times faster there. The
        results differ by less than shifting a crop by one pixel would change them.
    """
    return _sampled(images, boxes, flips, size) if images.device.type != "cpu" else _cut(images, boxes, flips, size)


def _sampled(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    left, top, right, bottom = boxes.unbind(1)
    sign = 1.0 - 2.0 * flips.to(torch.float32)
    zero = torch.zeros_like(left)
    # Maps output coordinates in [-1, 1] to image coordinates.
    theta = torch.stack([(right - left) * sign, zero, left + right - 1, zero, bottom - top, top + bottom - 1], 1)
    if images.device.type == "cuda":
        theta = theta.pin_memory()
    theta = theta.view(-1, 2, 3).to(images.device, non_blocking=True)
    grid = functional.affine_grid(theta, [len(images), images.shape[1], size, size], align_corners=False)
    sampled = functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return sampled.round_().clamp_(0, 255).to(torch.uint8)


def _cut(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    count, channels, height, width = images.shape
    images = images.contiguous(memory_format=torch.channels_last)  # torch has a fast path for uint8 in this layout
    sides = torch.tensor([width, height, width, height])
    edges = (boxes * sides).round().long()
    edges[:, :2] = torch.minimum(edges[:, :2], sides[:2] - 1)
    edges[:, 2:] = torch.maximum(edges[:, 2:], edges[:, :2] + 1)
    result = torch.empty(count, channels, size, size, dtype=torch.uint8, memory_format=torch.channels_last)
    for number, ((left, top, right, bottom), flip) in enumerate(zip(edges.tolist(), flips.tolist(), strict=True)):
        part = images[number : number + 1, :, top:bottom, left:right]
        if part.shape[2:] != (size, size):
            part = functional.interpolate(part, size=(size, size), mode="bilinear", antialias=True)
        result[number] = part[0].flip(2) if flip else part[0]
    return result


def resize(images: Tensor, size: int) -> Tensor:
    """Resize ``(count, channels, height, width)`` uint8 images to ``(count, channels, size, size)`` uint8."""
    if images.shape[2:] == (size, size):
        return images
    if images.device.type == "cpu":
        images = images.contiguous(memory_format=torch.channels_last)
        return functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    resized = functional.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class VisualTransform:
    """Frame selection, augmentation and resizing for one modality.

    Attributes:
        frames: frames per clip that the network sees.
        how: selection rule, see ``choose_frames``.
        augment: augmentation in training, per frame as in the official implementations: ``resized_crop_flip``
            (RandomResizedCrop and a horizontal flip with probability 1/2), ``crop_flip`` (a random square of the final size,
            and the same flip), or ``none``.
        size: edge length of the images that the network sees, pixels.
        stacked: the frames of a clip become channels of one image. Crop and flip are then drawn once per clip.
    """

    frames: int
    how: str
    augment: str
    size: int
    stacked: bool = False

    def __call__(self, images: Tensor, aspect: Tensor, generator: torch.Generator | None) -> Tensor:
        """Augment and resize frames.

        Args:
            images: ``(batch, frames, 3, edge, edge)`` uint8 on any device: the chosen frames.
            aspect: ``(batch,)`` float32 on the CPU, width / height of the original images.
            generator: random generator for training; None = evaluation: whole frames, resized.

        Returns:
            ``(batch, frames, 3, size, size)`` uint8, or ``(batch, 3, size, size)`` if ``frames`` is 1, or ``(batch, frames * 3,
            size, size)`` if ``stacked``.
        """
        batch, frames = images.shape[:2]
        flat = images.flatten(0, 1)
        if generator is None or self.augment == "none":
            resized = resize(flat, self.size)
        else:
            draws, repeats = (batch, frames) if self.stacked else (len(flat), 1)
            boxes = (
                sample_boxes(aspect.repeat_interleave(draws // batch), generator)
                if self.augment == "resized_crop_flip"
                else self._squares(draws, flat.shape[-1], generator)
            )
            flips = torch.rand(draws, generator=generator) < 0.5
            boxes, flips = boxes.repeat_interleave(repeats, 0), flips.repeat_interleave(repeats)
            resized = crop_resize(flat, boxes, flips, self.size)
        if frames == 1:
            return resized
        clips = resized.unflatten(0, (batch, frames))
        return clips.flatten(1, 2) if self.stacked else clips

    def _squares(self, count: int, edge: int, generator: torch.Generator) -> Tensor:
        free = edge - self.size
        corners = torch.randint(0, free + 1, (count, 2), generator=generator).float()
        return torch.cat([corners, corners + self.size], 1) / edge
