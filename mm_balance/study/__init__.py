"""Optuna studies on as many workers as there are devices: the only room that knows Optuna."""
