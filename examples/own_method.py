"""A custom method with a custom head, defined outside the package and usable for training, studies and serving.

From the parent folder:

    python -m entrypoints.train --method examples.own_method:Smoothed --preset quick --method_options smoothing=0.2
    python -m pytest examples/test_own_method.py

With `mlflow run`: `-P method=examples.own_method:Smoothed`. An installed package can register short names for its methods in
`pyproject.toml`:

    [project.entry-points."mm_balance.methods"]
    smoothed = "my_package.methods:Smoothed"
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from mm_balance.methods.base import Method, loss_output
from mm_balance.methods.options import option
from mm_balance.models import Fusion, HeadSpec, MultimodalNetwork
from mm_balance.types import Batch, Clock, LossOutput


class TemperedHead(Fusion):
    """One classifier per modality; the fused logits are the sum of their logits divided by a temperature."""

    def __init__(self, widths: Mapping[str, int], classes: int, temperature: float) -> None:
        super().__init__(widths, classes)
        self.temperature = temperature
        self.own = nn.ModuleDict({name: nn.Linear(width, classes) for name, width in widths.items()})

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        unimodal = {name: self.own[name](features[name]) for name in self.modalities}
        return sum(unimodal.values()) / self.temperature, unimodal

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        return self.own[modality].parameters()


@dataclass(frozen=True)
class SmoothedOptions:
    """Options of the example method."""

    smoothing: float = option(0.1, "label mass spread over all classes", minimum=0.0, maximum=0.9)
    temperature: float = option(2.0, "divisor of the sum of the unimodal logits", minimum=0.1, maximum=100.0)


class Smoothed(Method):
    """Label smoothing for the fused and the unimodal predictions, so that no modality becomes overconfident early."""

    name = "smoothed"
    title = "smoothed labels"
    citation = "Szegedy et al., CVPR 2016, arXiv 1512.00567, applied per modality"
    Options = SmoothedOptions
    fusions = ("concat",)  # only the default is accepted, because the head below replaces the fusion

    def choose_head(self, fusion: str) -> HeadSpec:
        return HeadSpec(TemperedHead, {"temperature": self.options.temperature})

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        parts = {
            name: functional.cross_entropy(logits.float(), batch.labels, label_smoothing=self.options.smoothing)
            for name, logits in {"fusion": output.fused, **output.unimodal}.items()
        }
        return loss_output(output, **parts)
