"""The report of an evaluation: one folder, which opens from disk and loads nothing from elsewhere."""
