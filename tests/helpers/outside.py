"""Methods outside the package, as files that a test writes."""

from pathlib import Path

METHOD = '''
from dataclasses import dataclass

from mm_balance.methods.base import Method, cross_entropy, loss_output
from mm_balance.methods.options import option


@dataclass(frozen=True)
class HalvedOptions:
    """See the field's help."""

    factor: float = option(0.5, "of the loss", minimum=0.0, search=(0.1, 1.0, "linear"))
    batch_size: int = option(1, "has the name of a parameter", minimum=1)


class Halved(Method):
    """A part of the loss."""

    name = "halved"
    title = "halved loss"
    citation = "none"
    Options = HalvedOptions

    def loss(self, model, batch, clock):
        output = model(batch.inputs)
        return loss_output(output, fusion=self.options.factor * cross_entropy(output.fused, batch.labels))
'''


def write_module(folder: Path, name: str, text: str = METHOD) -> Path:
    """The file of module ``name``, which may lie in packages, below ``folder``."""
    path = folder.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def write_plugin(folder: Path, package: str, *, group: str = "mm_balance.methods", **offered: str) -> None:
    """What installing ``package`` leaves in ``folder`` beside its modules: entry points, name = import path."""
    information = folder / f"{package}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {path}" for name, path in offered.items()]
    (information / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
