"""Where a checkpoint says what it holds: both trainings write it there, `pipeline.checkpoints` reads it."""

CHECKPOINT_KEY = "xray2ctpa"
