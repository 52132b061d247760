"""A method of one's own, outside the package: registered, trained and tested like any other.

python examples/own_method.py --preset quick --method_options smoothing=0.2
pytest examples/own_method.py
"""

import sys
from dataclasses import dataclass

from torch.nn import functional

from mm_balance.commands import run_command
from mm_balance.methods import METHODS
from mm_balance.methods.base import Method, loss_output
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.testing import MethodConformance
from mm_balance.types import Batch, Clock, LossOutput


@dataclass(frozen=True)
class SmoothedOptions:
    """See the field's help."""

    smoothing: float = option(0.1, "share of the label that is spread over all classes", minimum=0.0, maximum=0.9)


class Smoothed(Method):
    """Smoothed labels for the fused prediction and for each modality alone: none can be sure of itself early on."""

    name = "smoothed"
    title = "smoothed labels"
    citation = "Szegedy et al., CVPR 2016, arXiv 1512.00567, applied per modality"
    Options = SmoothedOptions

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        parts = {
            name: functional.cross_entropy(logits.float(), batch.labels, label_smoothing=self.options.smoothing)
            for name, logits in {"fusion": output.fused, **output.unimodal}.items()
        }
        return loss_output(output, **parts)


METHODS["smoothed"] = Smoothed


class TestSmoothed(MethodConformance):
    method = Smoothed


if __name__ == "__main__":
    sys.exit(run_command("train", ["--method", "smoothed", *sys.argv[1:]]))
