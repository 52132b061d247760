"""Who is ahead in predictions that you have saved: no network, no training. Run: python examples/measure_predictions.py"""

import numpy as np

import mm_balance as mm

generator = np.random.default_rng(0)  # in place of your files: logits of each modality alone, and the true classes
classes, samples = 10, 2000
labels = generator.integers(classes, size=samples)
truth = np.eye(classes)[labels]
logits = {
    "text": 3 * truth + generator.normal(size=(samples, classes)),
    "image": 1 * truth + generator.normal(size=(samples, classes)),
}
logits["text"][7] = 6 * np.eye(classes)[(labels[7] + 1) % classes]  # a text that belongs to another sample

measured = mm.measure(logits, labels, samples=[f"post_{place:04d}" for place in range(samples)])
print(measured.sentence())
print(measured.most_suspicious(3)[["sample", "label", "p_text", "p_image", "doubted"]].to_string(index=False))
measured.table().to_csv("gaps.csv", index=False)
measured.save_figure("gaps.png")
