"""The card of a logged model: what it is, how good, what it takes, how to call it."""

from __future__ import annotations

from collections.abc import Mapping

from mm_balance import names
from mm_balance.escaping import markdown_code, markdown_text
from mm_balance.input_kinds import SEQUENCE, SOUND, VECTOR
from mm_balance.serving import ModalityRecipe
from mm_balance.workflow.stage import StageResult

SHOWN_CLASSES = 30
EXAMPLES = {SOUND: "clip.wav", VECTOR: "clip.npy", SEQUENCE: "clip.npy"}
"""Kind of input -> name of a file of it; all others are pictures."""
LONGEST_NAME = 100
"""Characters of a class name that are shown."""


def model_card(
    result: StageResult, recipes: Mapping[str, ModalityRecipe], run_id: str, what: str, accuracy: str
) -> str:
    """Return the card as Markdown.

    Args:
        result: the finished stage whose weights the model has.
        recipes: modality -> how its inputs are made.
        run_id: the run that the model is logged on.
        what: what was trained, in a few words.
        accuracy: validation accuracies as text.
    """
    data, stage = result.stage.data, result.stage
    named = [markdown_code(name[:LONGEST_NAME]) for name in data.classes[:SHOWN_CLASSES]]
    more = f" and {len(data.classes) - SHOWN_CLASSES} more" if len(data.classes) > SHOWN_CLASSES else ""
    branches = stage.method.sees_others()
    columns = ", ".join(f"`{name}`" for name in recipes)
    example = ", ".join(f'"{name}": "{EXAMPLES.get(item.kind, "clip.png")}"' for name, item in recipes.items())
    return "\n".join(
        [
            f"**{what}**: one of {len(data.classes)} classes from {columns}, trained on {markdown_code(data.name)}.",
            f"Validation accuracy after epoch {result.epoch}: {accuracy}. Nothing was chosen on test data.",
            "",
            f"- Classes: {', '.join(named)}{more}.",
            f"- Data: {markdown_text(data.source)} Sizes: {', '.join(f'{name} {size}' for name, size in data.counts.items())}.",
            f"- Recipe: {markdown_text(data.recipe)}.",
            f"- Method: `{stage.method.name}`, {stage.method.citation}. Seed {stage.seed}. Run `{result.run.run_id}`.",
            *(
                ["- Its branches see each other: an answer of one modality also depends on the others."]
                if branches
                else []
            ),
            "",
            "Give a table with one row per sample and these columns:",
            "",
            *(f"- `{name}`: {recipe.text()}." for name, recipe in recipes.items()),
            "",
            "```python",
            "import mlflow, pandas as pd",
            f'model = mlflow.pyfunc.load_model("runs:/{run_id}/{names.MODEL_NAME}")',
            f"print(model.predict(pd.DataFrame([{{{example}}}])))",
            "```",
            "",
            "Answers: class and probability, fused and of each modality alone; how far the modalities disagree; `warning` where an "
            "input is blank or unlike the training data. Probabilities are those of the softmax, not calibrated. A sample of none of "
            "the classes is given one of them all the same.",
        ]
    )
