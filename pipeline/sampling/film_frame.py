"""A film alone defines the patient's frame: its lungs, looked for on it, are where positions count from."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dataset.scans.lung_field import lungs_on_film
from ddpm.plan import XrayInput
from ddpm.position import about_origin

log = logging.getLogger(__name__)


def in_patients_frame(shown: XrayInput) -> XrayInput:
    """X-rays whose cameras count from the lungs on the frontal one; as they were where none are found there.

    The grid that is drawn has its centre there, and the further views share the frontal one's frame.
    """
    place = lungs_on_film(shown.xray[0].numpy(), shown.camera.numpy().astype(np.float64))
    if place is None:
        log.warning("no lungs found on the X-ray: positions count from its middle")
        return shown
    x, y, z = map(float, place)
    origin = torch.tensor((z, y, x))
    views = {name: replace(view, camera=about_origin(view.camera, origin)) for name, view in shown.views.items()}
    return replace(shown, camera=about_origin(shown.camera, origin), views=views, lungs=(z, y, x))


def frame_facts(shown: XrayInput) -> dict[str, Any]:
    """What a drawn CT's JSON says of it."""
    if shown.lungs is None:
        return {"position_origin": "the middle of the X-ray: no lungs found on it"}
    return {"position_origin": "the lungs on the X-ray", "lungs_mm": list(shown.lungs)}
