"""What each number of an evaluation is, by its name in metrics.json."""

import re
from collections.abc import Mapping
from typing import Any

_WINDOW = "HU of both CTs are clipped to the window first."
# the longest that a name begins with is the one meant
_NUMBERS = {
    "psnr": f"Peak signal-to-noise ratio, dB; higher is nearer. {_WINDOW} {{psnr}}",
    "ssim": f"Structural similarity (Wang et al. 2004), 1 for equal CTs. {_WINDOW} Then they are scaled to [0, 1],"
    " data range 1; K1 = 0.01, K2 = 0.03. {ssim}",
    "hu_mae": f"Mean absolute error, HU; lower is nearer. {_WINDOW} Mean over all voxels, air outside the patient too.",
    "right_minus": "PSNR with the patient's own X-ray minus that of the control, case by case, dB. Above 0 the own"
    " X-ray is nearer to the real CT.",
    "lung_volume_correlation": "Pearson's correlation of drawn and real lung volumes over the cases. The grid alone"
    " tells much of a lung's size: compare with the controls, never with 0.",
    "lung_ml": "Volume of both lungs with the vessels in them, ml: air within the body by rules on HU, the windpipe"
    " where it joins them. A dash where the field of view cuts them so that they cannot be measured.",
    "projection": "The drawn CT is projected by the camera of the case's X-ray: correlation of the gradients of both,"
    " local contrast evened out, -1 to 1.",
    "projection_mae": "Mean absolute difference of X-ray and projection, gain and offset fitted, in shares of the grey"
    " scale; of X-rays that are projections themselves.",
    "rank": "1 where no other X-ray is more like its projection of this CT than the own one, 2 where one is, ...",
    "own_xray_found": "Share of drawn CTs that show their own X-ray better than those of up to 50 other patients, each"
    " projected by its own camera.",
    "block_index": "Mean |gradient| across planes between latent voxels (every fourth) over that across other planes,"
    " averaged over the axes, of one drawn CT. Above the real CT's, the decoder's blocks show.",
    "gradient_energy": "Mean |gradient| of one drawn CT over that of the real one. Below 1 it is smoother.",
    "copies": "How many drawn CTs stand out nearer to one training CT than any real CT does.",
    "copies_p": "How likely drawn CTs lie so near to single training CTs by chance, if the model copies nobody.",
    "fid": "Squared Fréchet distance of Gaussians fitted to a network's features of drawn and of real CTs, averaged"
    " over a CT's slices; 0 for equal ones. It falls with the number of CTs: compare evaluations of as many.",
    "kid": "Unbiased squared MMD of the same features (cubic kernel), 0 on average for CTs from one distribution.",
    "precision": "Share of drawn CTs whose features lie among those of real ones (third neighbours).",
    "recall": "Share of real CTs whose features lie among those of drawn ones (third neighbours).",
    "dice": "Dice overlap of the region in drawn and real CT, 1 for equal ones.",
    "hd95_mm": "95th percentile of the distances between the region's surfaces in drawn and real CT, mm (MONAI's).",
    "hu_bias": "Mean of drawn minus real HU within the real region, both clipped to the training's window.",
    "hu_spread": "Standard deviation of drawn minus real HU within the real region, clipped likewise.",
    "volume_error_ml": "Drawn minus real volume of the region, ml.",
    "volume_correlation": "Pearson's correlation of the region's drawn and real volumes over the cases.",
    "vessel_count": "Contrast-filled vessels in the lungs, above 100 HU and 3 mm wide or more: branches between forks.",
    "vessel_length_mm": "Length of the vessels' centre lines within the lungs, mm.",
    "vessel_volume_ml": "Volume of the contrast-filled vessels within the lungs, ml; it is part of the lungs' volume.",
}
_PARTS = {
    "right": "Drawn from the patient's own X-ray.",
    "wrong": "The same grid and noise, another patient's X-ray.",
    "null": "The same grid and noise, no X-ray: as the model draws where it is told nothing.",
    "mean_volume": "The mean training CT, cut to the case's field of view; beyond its extent lies the window's floor.",
    "lookup": "The training CT whose X-ray is most similar, put where the case's lies.",
    "codec": "The real CT through encoder and decoder: the most that this model can reach.",
    "real": "Of the real CT.",
    "95": "The ends of its 95 % interval: bootstrap over patients, each with all their cases.",
    "lung": "Lung: air within the body, with its vessels.",
    "body": "Body: the largest piece above -300 HU, holes closed slice by slice.",
    "mediastinum": "Mediastinum: what the convex hull of the lungs holds in each axial slice besides lung and bone.",
    "bone": "Bone: pieces above 150 HU that reach out of the lungs' hull by a tenth or more.",
    "contrast": "Contrast: the other pieces above 150 HU.",
}
OUTSIDE = (
    "Compared are the voxels whose centres lie in the real CT's field of view, on the grid that was drawn. Each score"
    " clips HU of both CTs to its own window. A model draws nothing beyond its training's: what real CTs hold there"
    " counts as error where a score's window is wider."
)


def definition(name: str, presets: Mapping[str, Mapping[str, Any]], own: Mapping[str, str] | None = None) -> str | None:
    """What a number of this name is; None where nobody has said.

    Args:
        name: as in metrics.json, such as "psnr_wrong ctpa700"; behind a blank the preset.
        presets: by name what the scores depend on (`window`, `data_range`, `mode`), the training's window first.
        own: definitions that come with the numbers, by the name or by how it begins.
    """
    bare, _, preset = name.partition(" ")
    known = {**_NUMBERS, **(own or {})}
    begins = max((key for key in known if re.match(rf"{re.escape(key)}(_|$)", bare)), key=len, default=None)
    if begins is None:
        return None
    score = presets.get(preset) or next(iter(presets.values()), None)
    text = known[begins].replace("{psnr}", _of_psnr(score)).replace("{ssim}", _of_ssim(score))
    rest, parts = bare[len(begins) :], []
    for key, said in _PARTS.items():
        if re.search(rf"_{key}(?=_|$)", rest):
            parts.append(said)
    if ":" in rest:
        parts.append("The region is that of the masks that were given.")
    window = [_of_window(score)] if begins in ("psnr", "ssim", "hu_mae") and score else []
    return " ".join([text.strip(), *window, *parts])


def _of_window(score: Mapping[str, Any]) -> str:
    low, high = score["window"]
    spacing = " × ".join(f"{size:.3g}" for size in score["spacing"]) if "spacing" in score else None
    return f"Window {low:g} to {high:g} HU." + (f" Voxels of the first case: {spacing} mm." if spacing else "")


def _of_psnr(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    over = (
        "of each slice, averaged along each axis, then over the axes" if score["mode"] == "slices" else "of all voxels"
    )
    return f"The mean square {over}, against a peak of {score['data_range']:g} HU."


def _of_ssim(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    if score["mode"] == "slices":
        return "Uniform 7×7 neighbourhoods in each slice, averaged along each axis, then over the axes."
    if score.get("ssim_window") == "gaussian":
        return "Gaussian 11×11×11 neighbourhoods (σ 1.5 voxels), population covariance, mean over the inner voxels."
    return "Uniform 7×7×7 neighbourhoods, sample covariance, mean over the voxels whose neighbourhood lies inside."
