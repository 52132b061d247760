"""All access to MLflow: no other package imports `mlflow`, and only ``runs.TrackedRun`` writes to it."""
