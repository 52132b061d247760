"""All access to MLflow. No other package imports `mlflow`."""
