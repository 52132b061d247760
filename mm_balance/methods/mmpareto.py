"""MMPareto: where the gradients of the joint and the unimodal loss conflict in an encoder, use their minimum-norm combination.

Source: Wei and Hu, MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance, ICML 2024, arXiv 2405.17730;
GeWu-Lab/MMPareto_ICML2024@a339db3, code/MMPareto.py. Deviations: three backward passes instead of four (the fourth follows from
them); norms are compared per tensor, as in the code (``scope=encoder``: the natural reading of the paper).
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
    """Options of MMPareto."""

    gamma: float = option(
        1.5, "factor of the encoders' gradients", minimum=0.0, exclusive=True, source="MMPareto_ICML2024@a339db3",
        search=(1.0, 3.0, "linear"),
    )  # fmt: skip
    scope: str = option("tensor", "scope in which gradient norms are compared", choices=("tensor", "encoder"))


class MMPareto(Method):
    """Pareto combination of joint and unimodal gradients."""

    name = "mmpareto"
    title = "MMPareto"
    citation = "Wei and Hu, ICML 2024, arXiv 2405.17730; GeWu-Lab/MMPareto_ICML2024@a339db3"
    Options = MMParetoOptions
    several_classes = True

    def choose_head(self, fusion: str) -> HeadSpec:
        return HeadSpec(OwnHeads, {"joint": fusion})

    def cost(self) -> Cost:
        return Cost(backward=2.0)

    def update(self, model: MultimodalNetwork, batch: Batch, step: Step, clock: Clock) -> LossOutput:
        step.zero_grad()
        with step.autocast():
            output = model(batch.inputs)
        joint_loss = cross_entropy(output.fused, batch.labels)
        unimodal_losses = {name: cross_entropy(value, batch.labels) for name, value in output.unimodal.items()}
        encoders = {name: list(model.encoder_parameters(name)) for name in self.modalities}
        heads = list(model.fusion.parameters())
        everything = [*(item for part in encoders.values() for item in part), *heads]
        joint = dict(zip(everything, step.gradients(joint_loss, everything), strict=True))
        for name, parameters in encoders.items():
            gradients = step.gradients(unimodal_losses[name], [*parameters, *heads])
            unimodal = dict(zip([*parameters, *heads], gradients, strict=True))
            # Encoders get the Pareto combination, heads the plain sum of all gradients.
            combined = pareto_gradients(
                [joint[item] for item in parameters],
                [unimodal[item] for item in parameters],
                self.options.gamma,
                scope=self.options.scope,
            )
            for parameter, gradient in zip(parameters, combined, strict=True):
                parameter.grad = gradient
            for parameter in heads:
                joint[parameter] = joint[parameter] + unimodal[parameter]
        for parameter in heads:
            parameter.grad = joint[parameter]
        step.unscale()
        step.step()
        losses = {f"unimodal_{name}": value for name, value in unimodal_losses.items()}
        return loss_output(output, fusion=joint_loss, **losses)
