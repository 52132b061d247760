"""Encoders of a configuration: where they come from, and their pretrained weights."""

from __future__ import annotations

from pathlib import Path

from mm_balance.config import Config, by_modality
from mm_balance.config.encoders import BY_KIND, DOWNLOAD, RANDOM, check_encoders
from mm_balance.errors import UserError
from mm_balance.models import EncoderSpec, MultimodalNetwork, find_encoder, source_digest


def encoders_of(config: Config) -> dict[str, EncoderSpec]:
    """Return modality -> the encoder that ``config`` names for it, without those that follow from the kind of input.

    Raises:
        UserError: there is none of that name.
    """
    names = check_encoders(config.model.encoder, config.data.modalities.split(","))
    return {modality: find_encoder(name) for modality, name in names.items() if name != BY_KIND}


def check_networks(config: Config) -> None:
    """Raise UserError if an encoder, or a file of its weights, is missing: before data are read, which may take hours."""
    for spec in encoders_of(config).values():
        spec.check()
    for source in weight_sources(config).values():
        if source != DOWNLOAD and not Path(source).exists():
            raise UserError(f"encoder_weights={source}: cannot be read (No such file or directory)")


def weight_sources(config: Config) -> dict[str, str]:
    """Return modality -> where its pretrained weights are; modalities without any are left out.

    A model in a local folder comes with the weights of that folder, unless others, or none, are asked for.
    """
    encoders = encoders_of(config)
    sources = {modality: spec.folder or RANDOM for modality, spec in encoders.items()}
    if config.model.encoder_weights is not None:
        sources = by_modality("encoder_weights", config.model.encoder_weights, config.data.modalities.split(","))
    return {modality: source for modality, source in sources.items() if source != RANDOM}


def weight_digests(config: Config) -> dict[str, str]:
    """Return modality -> digest of its pretrained weights. Raises UserError if a file cannot be read."""
    encoders = encoders_of(config)
    return {
        modality: source_digest(encoders.get(modality), source) for modality, source in weight_sources(config).items()
    }


def load_pretrained(model: MultimodalNetwork, config: Config) -> None:
    """Load the pretrained weights that ``config`` asks for; ``model.pretrained`` says what was loaded.

    Raises:
        UserError: they cannot be read, or are those of another encoder.
    """
    for name, source in weight_sources(config).items():
        model.load_pretrained(name, source)
