"""Training engine: loop, split predictions, evaluation, checkpoints. Independent of methods and tracking servers."""
