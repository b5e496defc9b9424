"""How films of patients differ from straight projections: a point source somewhere near 1.7 m, and how one stood."""

import numpy as np

from dataset.scans import camera as cam
from dataset.scans.camera import Film, Matrix

SOURCE_MM, OTHER_SOURCE = 1700.0, 0.1  # to the patient's middle, and the share by which it differs
OUT_OF_PLANE_DEG, TURN_DEG, SHIFT_MM, MAGNIFIED = 3.0, 5.0, 20.0, 1.2  # largest


def random_camera(size: int, pixel_mm: float, rng: np.random.Generator) -> Matrix:
    """A true camera (3, 4) of films of size x size pixels.

    Args:
        pixel_mm: in the plane through the patient's middle, before magnification.
    """
    source = SOURCE_MM * rng.uniform(1 - OTHER_SOURCE, 1 + OTHER_SOURCE)
    yaw, pitch = np.radians(rng.uniform(-1, 1, 2) * OUT_OF_PLANE_DEG)
    turn = np.radians(rng.uniform(-1, 1) * TURN_DEG)
    shift = rng.uniform(-1, 1, 2) * SHIFT_MM / pixel_mm
    zoom = rng.uniform(1, MAGNIFIED)
    straight = Film("pa", source, 0.0).camera((size, size), (pixel_mm, pixel_mm))
    about_z = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    straight[:, :3] = straight[:, :3] @ about_x @ about_z
    middle = (size - 1) / 2
    a = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    change = np.eye(3)
    change[:2, :2], change[:2, 2] = a, middle + shift - a @ [middle, middle]
    return cam.of_pixels(change, straight)
