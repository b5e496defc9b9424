"""What stands on everything that is drawn."""

NOTICE = "Drawn by a model from an X-ray. Research only, not for diagnosis."  # fits a NIfTI's 79 bytes with a prefix
