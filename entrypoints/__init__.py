"""What `mlflow run . -e NAME` starts."""
