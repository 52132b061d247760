"""Names of encoders. Torch-free; ``mm_balance.models.encoders`` builds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mm_balance.config.per_modality import by_modality
from mm_balance.errors import UserError, did_you_mean
from mm_balance.plugins import Plugins

_PACKAGE = "mm_balance.models.encoders"
BUILT_IN = {
    "resnet18": f"{_PACKAGE}.resnet:ResNet18",
    "resnet_narrow": f"{_PACKAGE}.resnet:ResNetNarrow",
    "mlp": f"{_PACKAGE}.vectors:MlpEncoder",
    "transformer": f"{_PACKAGE}.vectors:TransformerEncoder",
    "temporal_convolution": f"{_PACKAGE}.vectors:TemporalConvolution",
}
"""The encoders of this package: name -> import path."""
BY_KIND = "by_kind"
"""Name that stands for the usual encoder of each kind of input, see ``INPUT_KINDS``."""
OPTIONAL_LIBRARIES = ("timm", "transformers")
LIBRARIES = ("torchvision", *OPTIONAL_LIBRARIES)
"""Libraries whose models are named ``library/model``; of ``transformers``, the model is a local folder."""
DOWNLOAD, RANDOM = "download", "none"
"""Values of ``encoder_weights`` that are no files."""
PLUGINS = Plugins(
    "encoder", "mm_balance.encoders", {BY_KIND: "the usual encoder of each kind", **BUILT_IN}, "package.module:build"
)


def check_encoders(text: str, modalities: Sequence[str]) -> dict[str, str]:
    """Return the name of every modality's encoder; nothing of it is imported.

    Args:
        text: value of the parameter ``encoder``.
        modalities: modalities of the data, in order.

    Raises:
        UserError: a modality without encoder or with two, or a name that no encoder has.
    """
    names = by_modality("encoder", text, modalities)
    for name in names.values():
        library, slash, model = name.partition("/")
        head, _, rest = name.partition(":")
        if slash and ":" not in library:
            if library not in LIBRARIES or not model:
                forms = "torchvision/NAME, timm/NAME or transformers/FOLDER"
                raise UserError(f"encoder={name}: give {forms}")
        elif ":" not in name:
            PLUGINS.outside(name)
        elif rest in BUILT_IN or rest.partition("/")[0] in LIBRARIES:
            raise UserError(
                f"encoder={name}: the data have no modality {head!r}{did_you_mean(head, modalities)}; they have "
                f"{', '.join(modalities)}"
            )
    return names


def absolute_folder(name: str) -> str:
    """Return the name of an encoder with an absolute folder, if it is in one."""
    library, slash, folder = name.partition("/")
    return f"transformers/{_absolute(folder)}" if slash and library == "transformers" else name


def absolute_weights(source: str) -> str:
    """Return a value of ``encoder_weights`` with an absolute path, if it is one."""
    return source if source in (DOWNLOAD, RANDOM) else _absolute(source)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())
