"""A small data set of vectors and sequences on disk."""

import numpy as np

from tests.helpers.manifests import Folder


class ArrayFolder(Folder):
    """The same with columns of arrays: ``motion``, sequences of 2 features, and ``words``, vectors of 4, of which one is constant.

    The longest sequences of train have 7 steps; one of test has 9.
    """

    def __init__(self, path):
        super().__init__(path)
        self.header += ["motion", "words"]
        self.arrays = {}

    def add(self, split, label, **cells):
        number = len(self.rows)
        random = np.random.default_rng(number)
        steps = 9 if split == "test" else 3 + number % 5
        made = {
            "motion": random.normal(3, 2, (steps, 2)).astype(np.float32),
            "words": np.append(random.normal(0, 5, 3), 1.7),
        }
        for name, values in made.items():
            np.save(self.path / f"{name}{number}.npy", values)
            self.arrays[name, f"s{number}"] = values
            cells.setdefault(name, f"{name}{number}.npy")
        return super().add(split, label, **cells)

    def fill(self, classes=("cat", "dog"), counts=(("train", 10), ("val", 1), ("test", 1))):
        return super().fill(classes, counts)

    def load(self, *, modalities=("motion", "words"), **options):
        return super().load(modalities=modalities, **options)
