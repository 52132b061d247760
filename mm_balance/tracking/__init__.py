"""Everything that talks to MLflow: no other package imports that library, and only ``runs.TrackedRun`` writes to it."""
