"""Training: one loop, surveys, evaluation, checkpoints. Nothing here knows a method or a tracking server."""
