"""The verdict's words rank models whose worth is known."""

import numpy as np
from scipy.ndimage import gaussian_filter

from evaluation.controls import compare_with_controls
from evaluation.metrics import psnr
from evaluation.seams import gradient_energy, plane_gradients
from evaluation.verdict import sharpness, verdict

WINDOW = (-1000.0, 1000.0)
PATIENTS = [f"p{i}" for i in range(8)]


def words_of(draw):
    """The verdict on `draw`, which makes a CT of the number of a patient's X-ray."""
    rng = np.random.default_rng(0)
    shapes = [gaussian_filter(rng.normal(size=(24, 24, 24)), 3) for _ in PATIENTS]
    real = [4000 * shape + rng.normal(0, 60, shape.shape) for shape in shapes]
    mean = np.mean(real, axis=0)
    drawn = [draw(i, real, mean) for i in range(len(real))]
    scores = {
        "right": drawn,
        "wrong": drawn[1:] + drawn[:1],
        "null": [mean] * len(real),
        "mean_volume": [mean] * len(real),
    }
    scores = {who: [psnr(a, b, WINDOW) for a, b in zip(cts, real, strict=True)] for who, cts in scores.items()}
    sharp = [gradient_energy(plane_gradients(a), plane_gradients(b)) for a, b in zip(drawn, real, strict=True)]
    return " ".join(verdict(compare_with_controls(scores, PATIENTS)) + sharpness(float(np.mean(sharp))))


def test_the_truth_a_blurred_one_the_mean_ct_and_a_swapped_truth_are_told_apart():
    truth = words_of(lambda i, real, mean: real[i] + np.random.default_rng(i).normal(0, 1, mean.shape))
    blurred = words_of(lambda i, real, mean: gaussian_filter(real[i], 1.5))
    average = words_of(lambda i, real, mean: mean)
    swapped = words_of(lambda i, real, mean: real[(i + 3) % len(real)])
    for words in (truth, blurred):
        assert "It beats the mean training CT" in words
        assert "It follows its X-ray" in words
    assert "blurred" not in truth
    assert "blurred" in blurred
    for words in (average, swapped):
        assert "It does not beat the mean training CT" in words
        assert "It does not follow its X-ray" in words
        assert "The X-ray does not help" in words
    assert "nearer to the truth" not in average.split("blurred")[0]
    assert "which is nearer to the truth" in swapped
