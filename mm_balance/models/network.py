"""The full network: normalize, encode each modality, fuse."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from mm_balance.config.encoders import OPTIONAL_LIBRARIES
from mm_balance.errors import UserError
from mm_balance.input_kinds import IMAGE, INPUT_KINDS, SEQUENCE, VIDEO
from mm_balance.models.encoders import EncoderSpec, LoadedWeights, choose_encoders, load_weights
from mm_balance.models.head_spec import HeadSpec
from mm_balance.models.interaction import build_interaction
from mm_balance.models.passes import PassCounter
from mm_balance.types import InputSpec, Output


class MultimodalNetwork(nn.Module):
    """One encoder per modality and a fusion head.

    Args:
        specs: modality -> input spec. The order of the mapping is the order of the modalities; the first one is the
            leading modality of the gap.
        classes: number of classes.
        encoder: value of the parameter ``encoder``, or modality -> ``EncoderSpec``.
        fusion: the head: key of ``FUSIONS``, or a ``HeadSpec``.
        interaction: ``none``, or ``mmtm``: what connects the encoders between their stages.

    Attributes:
        modalities: names in order.
        widths: modality -> features per sample.
        encoder_specs: modality -> spec that its encoder was built from.
        frozen: modalities whose encoder is not trained, see ``freeze``.
        pretrained: modality -> what its encoder began with, where that were pretrained weights.
        head: spec that ``fusion`` was built from.
        passes: counter of samples through the encoders.
        exact_unimodal: whether fused logits are exactly the sum of the unimodal ones (see ``Fusion``).

    Raises:
        UserError: unknown encoder or fusion, one that does not suit the inputs, or an invalid modality name.
        ValueError: inconsistent spec.
    """

    def __init__(
        self,
        specs: Mapping[str, InputSpec],
        classes: int,
        *,
        encoder: str | Mapping[str, EncoderSpec],
        fusion: str | HeadSpec,
        interaction: str = "none",
    ) -> None:
        super().__init__()
        for name, spec in specs.items():
            _check_spec(name, spec)
        self.specs = dict(specs)
        self.classes = classes
        self.modalities = tuple(specs)
        self.encoder_specs = choose_encoders(encoder, specs) if isinstance(encoder, str) else dict(encoder)
        built = {name: self.encoder_specs[name].build(spec) for name, spec in specs.items()}
        encoders = {name: module for name, (module, _) in built.items()}
        self.encoders = nn.ModuleDict(encoders)
        self.widths = {name: features for name, (_, features) in built.items()}
        self.frozen: tuple[str, ...] = ()
        self.pretrained: dict[str, LoadedWeights] = {}
        self._begun_with: dict[str, dict[str, Tensor]] = {}
        self.head = HeadSpec.of_fusion(fusion) if isinstance(fusion, str) else fusion
        self.fusion = self.head.build(self.widths, classes)
        self.interaction = build_interaction(interaction, encoders)
        self._interaction_name = interaction
        self.passes = PassCounter()
        self.exact_unimodal = self.fusion.exact_unimodal
        for name, spec in specs.items():
            trailing = (1,) * (-1 - INPUT_KINDS[spec.kind].channels)
            # Not in the state dict: the description already stores them.
            self.register_buffer(
                f"mean_{name}", torch.tensor(spec.mean, dtype=torch.float32).view(-1, *trailing), persistent=False
            )
            self.register_buffer(
                f"std_{name}", torch.tensor(spec.std, dtype=torch.float32).view(-1, *trailing), persistent=False
            )

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        """Compute logits and features of a batch.

        Args:
            inputs: modality -> ``(batch, *spec.shape)``, floating point, or uint8 (scaled to 0-1 here).

        Returns:
            Fused logits, unimodal logits and features, in the parameters' precision (float32) even under autocast.

        Raises:
            ValueError: a modality is missing or has the wrong shape, type or batch size.
        """
        return self.fuse(self.encode(inputs))

    def load_pretrained(self, modality: str, source: str) -> LoadedWeights:
        """Load pretrained weights into the encoder of ``modality``, see ``load_weights``. Raises UserError."""
        encoder = self.encoders[modality]
        loaded = load_weights(encoder, self.encoder_specs[modality], source)
        self._begun_with[modality] = {name: value.clone() for name, value in encoder.state_dict().items()}
        self.pretrained[modality] = loaded
        return loaded

    def fresh(self) -> MultimodalNetwork:
        """Return the network as before training: new weights, pretrained ones where it had them, the same frozen encoders."""
        network = MultimodalNetwork.from_description(self.describe())
        for name, weights in self._begun_with.items():
            network.encoders[name].load_state_dict(weights)
        network.pretrained, network._begun_with = self.pretrained, self._begun_with
        network.freeze(self.frozen)
        return network

    def freeze(self, modalities: Sequence[str]) -> None:
        """Train the encoders of these modalities no longer: no gradients, and in evaluation mode (dropout, batch statistics)."""
        self.frozen = tuple(modalities)
        for name in modalities:
            self.encoders[name].requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> MultimodalNetwork:
        """Set training mode, for all but the frozen encoders."""
        super().train(mode)
        for name in self.frozen:
            self.encoders[name].eval()
        return self

    def encode(
        self,
        inputs: Mapping[str, Tensor],
        modalities: tuple[str, ...] | None = None,
        *,
        blank: Collection[str] = (),
    ) -> dict[str, Tensor]:
        """Encode a batch: modality -> ``(batch, width)`` features.

        Args:
            inputs: as for ``forward``.
            modalities: modalities to encode; None = those that the head reads.
            blank: modalities for which zeros replace the normalized input.

        Raises:
            ValueError: as for ``forward``.
        """
        self._check(inputs)
        selected = self.fusion.uses if modalities is None else modalities
        normalized = {name: self._normalize(name, inputs[name]) for name in selected}
        normalized |= {name: torch.zeros_like(normalized[name]) for name in blank}
        if self.interaction is None:
            features = {name: self.encoders[name](normalized[name]) for name in selected}
        else:
            features = self.interaction(self.encoders, normalized)
        for name in selected:
            self.passes.watch(name, features[name])
        return features

    def alone(self, inputs: Mapping[str, Tensor], modality: str) -> Tensor:
        """Compute the unimodal logits of one modality, ``(batch, classes)``; no other encoder runs."""
        features = self.encode(inputs, (modality,))
        with torch.autocast(features[modality].device.type, enabled=False):
            return self.fusion.alone(features[modality].to(self._mean(modality).dtype), modality)

    def fuse(self, features: Mapping[str, Tensor]) -> Output:
        """Compute logits from features, modality -> ``(batch, width)``."""
        dtype = self._mean(self.modalities[0]).dtype
        # The head is tiny and its logits feed a softmax and a difference of probabilities. In half precision,
        # the fused logits would differ from the sum of the unimodal ones.
        with torch.autocast(next(iter(features.values())).device.type, enabled=False):
            features = {name: value.to(dtype) for name, value in features.items()}
            fused, unimodal = self.fusion(features)
        return Output(fused, unimodal, features)

    def initialize_from(self, state: Mapping[str, Tensor]) -> list[str]:
        """Load the weights of a network with the same encoders; of its head, load all matching tensors.

        Args:
            state: state dict of that network.

        Returns:
            Names of the parameters and buffers that keep their initial values.
        """
        own = self.state_dict()
        loaded = {}
        for name in own:
            part, _, rest = name.partition(".")
            source = f"fusion.{self.fusion.warmup_name(rest)}" if part == "fusion" and name not in state else name
            if source in state and state[source].shape == own[name].shape:
                loaded[name] = state[source]
        self.load_state_dict({**own, **loaded})
        return [name for name in own if name not in loaded]

    def encoder_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Return all trained parameters of the encoder of ``modality``; none of a frozen one."""
        return (parameter for parameter in self.encoders[modality].parameters() if parameter.requires_grad)

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Return the parameters of the fusion that belong to ``modality`` alone; may be empty."""
        return self.fusion.head_parameters(modality)

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters of the fusion shared between modalities (concat: the bias).

        Encoder, head and shared parameters partition all trained parameters.
        """
        return self.fusion.shared_parameters()

    def learning_rate_groups(self, scales: Mapping[str, float]) -> dict[float, list[nn.Parameter]]:
        """Return factor of the learning rate -> trained parameters with it: 1 for the head, ``scales`` by modality for encoders."""
        factors = {id(item): scales[name] for name in self.modalities for item in self.encoders[name].parameters()}
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter in self.parameters():
            if parameter.requires_grad:
                groups.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
        return groups

    def encoder_modules(self) -> list[str]:
        """Return the names of the modules that the encoders' functions are from."""
        return list(dict.fromkeys(spec.builder.partition(":")[0] for spec in self.encoder_specs.values()))

    def libraries(self) -> list[str]:
        """Return the optional libraries that the encoders come from."""
        names = (spec.name.partition("/") for spec in self.encoder_specs.values())
        return list(dict.fromkeys(library for library, slash, _ in names if slash and library in OPTIONAL_LIBRARIES))

    def describe(self) -> dict[str, Any]:
        """Return a JSON-ready description from which ``from_description`` builds the same network with new weights.

        The specs are a list, so that the order of the modalities survives JSON with sorted keys.

        Raises:
            UserError: the class of the head, or an encoder, cannot be imported.
        """
        return {
            "specs": [{"modality": name, **_plain(spec)} for name, spec in self.specs.items()],
            "classes": self.classes,
            "encoders": {name: spec.describe() for name, spec in self.encoder_specs.items()},
            "fusion": self.head.describe(),
            "interaction": self._interaction_name,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> MultimodalNetwork:
        """Build a new network from the result of ``describe``.

        Raises:
            UserError: the class of the head, or an encoder, cannot be imported; the message says what to install.
        """
        specs = {
            item["modality"]: InputSpec(item["kind"], tuple(item["shape"]), tuple(item["mean"]), tuple(item["std"]))
            for item in description["specs"]
        }
        # Models logged before encoders could differ have one name for all.
        encoders = (
            description["encoders"] if "encoders" in description else dict.fromkeys(specs, description["encoder"])
        )
        return cls(
            specs,
            description["classes"],
            encoder={name: EncoderSpec.from_description(encoders[name]) for name in specs},
            fusion=HeadSpec.from_description(description["fusion"]),
            interaction=description["interaction"],
        )

    def _mean(self, modality: str) -> Tensor:
        return self.get_buffer(f"mean_{modality}")

    def _normalize(self, modality: str, value: Tensor) -> Tensor:
        mean, std = self._mean(modality), self.get_buffer(f"std_{modality}")
        if value.dtype != torch.uint8:
            normalized = (value.to(mean.dtype) - mean) / std
            if self.specs[modality].kind == SEQUENCE:
                # Padding stays zero, by which encoders know it.
                normalized = normalized.masked_fill((value == 0).all(dim=-1, keepdim=True), 0.0)
            return normalized
        scale, shift = 1 / (255 * std), -mean / std
        if value.device.type == "cpu" and value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
            # On a CPU, broadcasting a scale and shift per channel over channels-last data is slow; over whole rows it is fast.
            rows = value.permute(0, 2, 3, 1).flatten(2).to(mean.dtype)
            width = value.shape[3]
            torch.addcmul(shift.flatten().repeat(width), rows, scale.flatten().repeat(width), out=rows)
            return rows.unflatten(2, (width, -1)).permute(0, 3, 1, 2)
        return value.to(mean.dtype).mul_(scale).add_(shift)

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        sizes = {}
        for name, spec in self.specs.items():
            if name not in inputs:
                raise ValueError(f"inputs lack the modality {name!r}; they have {list(inputs)}")
            value = inputs[name]
            if tuple(value.shape[1:]) != spec.shape:
                raise ValueError(
                    f"modality {name!r} must have shape (batch, {_text(spec.shape)}), got {tuple(value.shape)}"
                )
            if value.dtype != torch.uint8 and not value.is_floating_point():
                raise ValueError(f"modality {name!r} must be floating point or uint8, got {value.dtype}")
            sizes[name] = len(value)
        if len(set(sizes.values())) != 1:
            raise ValueError(f"modalities differ in batch size: {sizes}")


def _check_spec(name: str, spec: InputSpec) -> None:
    # torch stores submodules by name, so dots and names of its own attributes are not allowed.
    if not name or "." in name or name == "fused" or hasattr(nn.ModuleDict(), name):
        raise UserError(f"{name!r} is not a valid modality name: rename it")
    if spec.kind not in INPUT_KINDS:
        raise ValueError(f"modality {name!r}: kind {spec.kind!r} is not one of {', '.join(INPUT_KINDS)}")
    kind = INPUT_KINDS[VIDEO if spec.kind == IMAGE and len(spec.shape) == 4 else spec.kind]
    if len(spec.shape) != len(kind.dimensions) or min(spec.shape) < 1:
        raise ValueError(f"modality {name!r}: the shape of a {spec.kind} is {kind.shape_text()}, got {spec.shape}")
    channels = spec.shape[kind.channels]
    if not len(spec.mean) == len(spec.std) == channels:
        raise ValueError(
            f"modality {name!r}: mean and std need one value for each of {channels} {kind.dimensions[kind.channels]}"
        )
    if not all(value > 0 for value in spec.std):
        raise ValueError(f"modality {name!r}: std must be above zero, got {spec.std}")


def _plain(spec: InputSpec) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(spec).items()}


def _text(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
