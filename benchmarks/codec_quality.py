"""What do codecs keep of scans of other patients, and what becomes of an error in their latents?
`python -m benchmarks.codec_quality`

Trains the VQ-GAN with each set of settings below, for as many equal steps, through the training script, and takes
scans of patients that no training has seen through it whole: as they are, and with normal noise on the latent, in
standard deviations of each channel, as diffusion leaves it. Beside them stand floors from the same run: 4x down and
up by trilinear interpolation, and the linear codecs that training starts from. One scan of the training enters twice,
as it is and resampled to FINE mm cubes. Scores are means over the scans, with 95 % intervals over patients; HU are in
the window [-1000, 1000].

Options: train=, test= (CTs; default the LIDC scans of ../shared/data, and its others), phantoms= (how many join the
test), out=, steps=, channels=, noise=0,0.1,0.2,0.4, codecs=vq,multi_vq,... (see CODECS), device=, and demo=, an
experiment of run_demo.py, such as demo: it trains a codec of these settings and a stage 2 of its own on synthetic
patients, and what that draws (DRAWN) joins the row, some ten minutes each. Other settings go to the training script,
after those in TRAINING below. The last line is one JSON object.
"""

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.command import benchmark
from benchmarks.measure import run
from benchmarks.real_data import DATA, LIDC, TOTALSEG, write_pairs
from common.errors import UserError
from common.geometry import STEP
from common.organs import lung_mask
from dataset.intensity import hu_to_unit, unit_to_hu
from dataset.phantom.anatomy import draw_anatomy
from dataset.phantom.thorax import render
from dataset.scans.resample import resample
from dataset.scans.volume_io import read_ct, write_ct
from evaluation.controls import mean_of
from evaluation.metrics import hu_mae, psnr, ssim
from evaluation.seams import block_index, gradient_energy, lattice_index, plane_gradients
from pipeline.checkpoints.networks import load_codec
from pipeline.devices import pick_device
from vq_gan_3d.linear import LinearDecoder, LinearEncoder, fit, set_maps

FINE = 1.5
WINDOW = (-1000.0, 1000.0)
CONTRAST = (150.0, 500.0)  # HU of vessels filled with it, and of soft bone
CHESTS = DATA / "chests_2mm"
TRAIN = (LIDC, *sorted(CHESTS.glob("lidc_*.nii.gz")))
TEST = (TOTALSEG, *sorted(path for name in ("tcga", "lung4d", "acrin") for path in CHESTS.glob(f"{name}_*.nii.gz")))
BLOCKS, LAPPED, NOISY = ("model.lapped=false", "model.latent_noise=0"), "model.lapped=true", "model.latent_noise=0.5"
CODECS = {
    "vq": ["quantizer=vq", "model.n_codes=16384"],
    "multi_vq": ["quantizer=multi_vq", "model.n_codes=2048"],
    "fsq": ["quantizer=fsq"],
    "kl": ["quantizer=kl"],
    "kl_lapped": ["quantizer=kl", LAPPED],
    "kl_noisy": ["quantizer=kl", NOISY],
    "kl_lapped_noisy": ["quantizer=kl", LAPPED, NOISY],
    "guide_vq": ["quantizer=vq", "model.n_codes=16384", "model.embedding_dim=64"],
}
TRAINING = (
    "model.n_hiddens=8 model.encoder_blocks=[0,2] model.decoder_mults=[4,2] model.decoder_blocks=[2,1]"
    " model.patch_size=[32,32,32] model.batch_size=8 model.num_workers=1 model.val_patches_per_volume=4"
    " model.gan_weight=0 model.feature_weight=0 model.l1_weight=1 model.l2_weight=20 model.gradient_weight=0"
    " model.train_lr=2e-3 model.adam_betas=[0.9,0.99] model.warmup_steps=50 model.lr_final=0.01"
    " model.max_epochs=1 model.precision=bf16-mixed resume=never"
)

DRAWN = (
    *("psnr_right", "right_minus_wrong", "right_minus_wrong_95", "ssim_right", "psnr_codec", "lung_volume_correlation"),
    *("gradient_energy", "block_index", "block_index_codec", "block_index_real"),
)

Through = Callable[[Tensor, float], Tensor]  # (1, D, H, W), and the noise's strength → through a codec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scan:
    """A CT, cut at the high ends to multiples of 4.

    hu: (D, H, W). unit: (1, D, H, W) in [-1, 1]. lungs: bool (D, H, W).
    """

    hu: np.ndarray
    unit: Tensor
    lungs: np.ndarray

    @classmethod
    def of(cls, hu: np.ndarray, spacing: Sequence[float]) -> "Scan":
        d, h, w = (n - n % STEP for n in hu.shape)
        hu = hu[:d, :h, :w]
        return cls(hu, torch.from_numpy(hu_to_unit(hu, WINDOW))[None], lung_mask(hu, spacing))

    def scores(self, reconstruction: Tensor) -> dict[str, float]:
        """Of a reconstruction (1, D, H, W) in [-1, 1]: PSNR in dB, SSIM; |gradient| over the scan's, and that in the
        lungs; how much more it changes between latent voxels than the scan does, and how much more of a lattice it has;
        mean error in HU where the scan holds contrast."""
        hu = unit_to_hu(reconstruction[0].clamp(-1, 1), WINDOW).numpy()
        own, real = plane_gradients(hu, WINDOW), plane_gradients(self.hu, WINDOW)
        contrast = (self.hu >= CONTRAST[0]) & (self.hu <= CONTRAST[1])
        return {
            "psnr": psnr(hu, self.hu, WINDOW),
            "ssim": ssim(hu, self.hu, WINDOW),
            "energy": gradient_energy(own, real),
            "lung_energy": slope(hu, self.lungs) / slope(self.hu, self.lungs),
            "blocks": block_index(own) / block_index(real),
            "lattice": lattice_index(hu, WINDOW) - lattice_index(self.hu, WINDOW),
            "contrast_mae": hu_mae(hu[contrast][None, None], self.hu[contrast][None, None], WINDOW),
        }


def slope(hu: np.ndarray, mask: np.ndarray) -> float:
    """Mean |gradient| along the axes of a volume (D, H, W) within a mask, in HU a voxel, clipped to the window."""
    values = np.clip(hu.astype(np.float32), *WINDOW)
    return float(np.mean([np.abs(np.diff(values, axis=a))[np.delete(mask, -1, a)].mean() for a in range(3)]))


def phantom(number: int) -> Scan:
    """A synthetic chest of 2 mm voxels."""
    spacing = (2.0, 2.0, 2.0)
    return Scan.of(render(draw_anatomy(np.random.default_rng((7, number))), (144, 128, 160), spacing).hu, spacing)


def write_fine(source: Path, path: Path) -> None:
    """The scan at voxels of FINE mm."""
    volume = read_ct(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ct(path, *resample(volume.hu, volume.affine, (FINE, FINE, FINE)))


def trilinear(unit: Tensor) -> Tensor:
    """(1, D, H, W), 4 times smaller and back."""
    small = interpolate(unit[None], scale_factor=1 / STEP, mode="trilinear")
    return interpolate(small, size=unit.shape[1:], mode="trilinear")[0]


def with_noise(z: Tensor, strength: float) -> Tensor:
    """A latent (C, d, h, w) and normal noise of so many of its standard deviations, channel by channel."""
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
    return z + strength * z.std((1, 2, 3), keepdim=True) * noise


def means(scores: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Over scans, each of another patient, with 95 % intervals."""
    patients = list(map(str, range(len(scores))))
    estimates = {key: mean_of([one[key] for one in scores], patients) for key in scores[0]}
    return {key: [None if v is None else round(v, 3) for v in astuple(found)] for key, found in estimates.items()}


def linear_codec(train: Tensor, channels: int, lapped: bool) -> Through:
    """The linear codec that training starts from, fitted to `train` (1, D, H, W)."""
    encoder, decoder = LinearEncoder(channels, lapped), LinearDecoder(channels, lapped)
    set_maps(encoder, decoder, *fit(train[None], channels, lapped))
    return lambda unit, strength: decoder(with_noise(encoder(unit[None])[0], strength)[None])[0]


def trained_codec(folder: Path, settings: Sequence[str], amount: Sequence[str], device: torch.device) -> Through:
    """The codec of a training in a folder beside the data."""
    places = [f"dataset.root={folder.parent}/data", f"run_dir={folder}", f"checkpoint_dir={folder}"]
    run("train_vqgan_patches_4gpu.py", [*places, *settings, *amount])
    codec = load_codec(folder / "last.ckpt")[0].to(device)

    def through(unit: Tensor, strength: float) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return codec.decode_volume(with_noise(codec.encode_volume(unit.to(device)), strength)).cpu()

    return through


def of_demo(settings: Sequence[str]) -> list[str]:
    """Settings of stage 1's command, as settings of the demo; the last of a name counts."""
    return [f"++vqgan.{word}" for word in settings]


def drawn_with(settings: Sequence[str], experiment: str, folder: Path) -> dict[str, Any]:
    """What a demo draws whose codec has these settings, for patients that it has not seen."""
    run("run_demo.py", [f"experiment={experiment}", f"dir={folder}", *of_demo(settings)])
    summary = json.loads((folder / "evaluation" / "metrics.json").read_text(encoding="utf-8"))["summary"]
    return {key: summary[key] for key in DRAWN}


@benchmark("train_vqgan")
def main(
    overrides: list[str],
    train: tuple[str, ...] = tuple(map(str, TRAIN)),
    test: tuple[str, ...] = tuple(map(str, TEST)),
    phantoms: int = 2,
    out: str = "outputs/codec_quality",
    steps: int = 1500,
    channels: int = 8,
    noise: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4),
    codecs: tuple[str, ...] = tuple(CODECS),
    device: str = "auto",
    demo: str = "",
) -> dict[str, Any]:
    if not set(codecs) <= CODECS.keys():
        raise UserError(f"codecs takes any of {','.join(CODECS)}; got {','.join(codecs)}")
    folder, fine = Path(out).absolute(), Path(out).absolute() / "fine.nii.gz"
    write_fine(Path(train[0]), fine)
    seen = {f"train{i}": Path(path) for i, path in enumerate(train)} | {"fine": fine}
    write_pairs(folder / "data", seen | {"test": Path(test[0])})
    cts = map(read_ct, map(Path, (train[0], *test)))
    known, *unseen = (Scan.of(ct.hu, ct.spacing) for ct in cts)
    scans = [*unseen, *map(phantom, range(phantoms))]
    result: dict[str, Any] = {"steps": steps, "scans": len(scans)}

    @torch.no_grad()
    def judge(name: str, through: Through, strengths: Sequence[float]) -> None:
        result[name] = {s: means([scan.scores(through(scan.unit, s)) for scan in scans]) for s in strengths}
        log.info("%s: %s", name, result[name])

    judge("trilinear", lambda unit, _: trilinear(unit), noise[:1])
    for lapped in (False, True):
        judge(f"linear{'_lapped' * lapped}_{channels}", linear_codec(known.unit, channels, lapped), noise)
    amount = [f"model.patches_per_volume={math.ceil(8 * steps / len(seen))}", f"model.max_steps={steps}"]
    for name in codecs:
        settings = [f"model.embedding_dim={channels}", *BLOCKS, *CODECS[name], *overrides]
        judge(name, trained_codec(folder / name, [*TRAINING.split(), *settings], amount, pick_device(device)), noise)
        if demo:
            result[name]["drawn"] = drawn_with(settings, demo, folder / f"{demo}_{name}")
    return result


if __name__ == "__main__":
    main()
