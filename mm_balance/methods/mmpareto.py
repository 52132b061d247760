"""MMPareto: where the joint loss and a modality's own loss pull its encoder apart, they are combined with the least norm.

Source: Wei and Hu, MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance, ICML 2024, arXiv 2405.17730;
GeWu-Lab/MMPareto_ICML2024@a339db3, code/MMPareto.py. Deviations: three backward passes in place of four (the fourth follows from
them); lengths are compared per tensor, as in the code (``scope=encoder``: the paper's natural reading).
"""

from __future__ import annotations

from dataclasses import dataclass

from mm_balance.functional.gradients import pareto_gradients
from mm_balance.methods.base import Method, Step, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import HeadSpec, MultimodalNetwork, OwnHeads
from mm_balance.types import Batch, Clock, Cost, LossOutput


@dataclass(frozen=True)
class MMParetoOptions:
    """See the fields' help."""

    gamma: float = option(
        1.5, "factor of the encoders' gradients", minimum=0.0, exclusive=True, source="MMPareto_ICML2024@a339db3",
        search=(1.0, 3.0, "linear"),
    )  # fmt: skip
    scope: str = option("tensor", "where lengths are compared", choices=("tensor", "encoder"))


class MMPareto(Method):
    """Pareto combination of joint and unimodal gradients."""

    name = "mmpareto"
    title = "MMPareto"
    citation = "Wei and Hu, ICML 2024, arXiv 2405.17730; GeWu-Lab/MMPareto_ICML2024@a339db3"
    Options = MMParetoOptions

    def choose_head(self, fusion: str) -> HeadSpec:
        return HeadSpec(OwnHeads, {"joint": fusion})

    def cost(self) -> Cost:
        return Cost(backward=2.0)

    def update(self, model: MultimodalNetwork, batch: Batch, step: Step, clock: Clock) -> LossOutput:
        step.zero_grad()
        with step.autocast():
            output = model(batch.inputs)
        joint = cross_entropy(output.fused, batch.labels)
        own = {name: cross_entropy(value, batch.labels) for name, value in output.unimodal.items()}
        encoders = {name: list(model.encoder_parameters(name)) for name in self.modalities}
        heads = list(model.fusion.parameters())
        everything = [*(item for part in encoders.values() for item in part), *heads]
        found = dict(zip(everything, step.gradients(joint, everything), strict=True))
        for name, parameters in encoders.items():
            gradients = step.gradients(own[name], [*parameters, *heads])
            alone = dict(zip([*parameters, *heads], gradients, strict=True))
            mixed = pareto_gradients(
                [found[item] for item in parameters],
                [alone[item] for item in parameters],
                self.options.gamma,
                scope=self.options.scope,
            )
            for parameter, gradient in zip(parameters, mixed, strict=True):
                parameter.grad = gradient
            for parameter in heads:
                found[parameter] = found[parameter] + alone[parameter]
        for parameter in heads:
            parameter.grad = found[parameter]
        step.unscale()
        step.step()
        return loss_output(output, fusion=joint, **{f"unimodal_{name}": value for name, value in own.items()})
