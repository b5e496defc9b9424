"""Frozen X-ray encoders, and X-ray features at 3D places."""

import os

# before any module here loads transformers: what is asked of the hub tells it nothing of this machine
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
