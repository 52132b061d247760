"""Optuna studies with one worker process per device. No other package imports `optuna`."""
