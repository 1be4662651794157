"""MLflow: a view of the records, which can be made again from them at any time."""
