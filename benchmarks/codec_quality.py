"""How well do the codecs reconstruct a real scan? `python -m benchmarks.codec_quality`

Trains the VQ-GAN on one scan with each quantiser, for as many equal steps, through the training script, and
reconstructs another patient's scan whole. The training scan enters twice, as it is and resampled to FINE mm cubes,
since one scan has one voxel shape only. Beside them stand two floors from the same run: 4x down and up by trilinear
interpolation, and the linear codec (PCA of 4x4x4 blocks, fitted to the training scan). The guide's single codebook on
64 channels is trained for as many steps too. PSNR and SSIM over the whole volume in the window [-1000, 1000].

Options: train=, test= (CTs; default the LIDC and TotalSegmentator scans of ../shared/data), out=, steps=, channels=,
codecs=vq,multi_vq,fsq,kl,guide_vq, device=. Other settings go to the training script, after those in TRAINING below.
The last line is one JSON object.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.command import benchmark
from benchmarks.measure import run
from benchmarks.real_data import LIDC, TOTALSEG, write_pairs
from common.errors import UserError
from common.geometry import STEP
from dataset.intensity import hu_to_unit, unit_to_hu
from dataset.scans.resample import resample
from dataset.scans.volume_io import read_ct, write_ct
from evaluation.metrics import score, window_preset
from pipeline.checkpoints.networks import load_codec
from pipeline.devices import pick_device
from vq_gan_3d.codec import FrozenCodec
from vq_gan_3d.linear import LinearDecoder, LinearEncoder, fit, set_maps

FINE = 1.5
WINDOW = (-1000.0, 1000.0)
CODECS = {
    "vq": ["quantizer=vq", "model.n_codes=16384"],
    "multi_vq": ["quantizer=multi_vq", "model.n_codes=2048"],
    "fsq": ["quantizer=fsq"],
    "kl": ["quantizer=kl"],
    "guide_vq": ["quantizer=vq", "model.n_codes=16384", "model.embedding_dim=64"],
}
TRAINING = (
    "model.n_hiddens=8 model.encoder_blocks=[0,2] model.decoder_mults=[4,2] model.decoder_blocks=[2,1]"
    " model.patch_size=[32,32,32] model.batch_size=8 model.num_workers=1 model.val_patches_per_volume=4"
    " model.gan_weight=0 model.feature_weight=0 model.l1_weight=1 model.l2_weight=20"
    " model.train_lr=2e-3 model.adam_betas=[0.9,0.99] model.warmup_steps=50 model.lr_final=0.01"
    " model.max_epochs=1 model.precision=bf16-mixed resume=never"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scan:
    """A CT, cut at the high ends to multiples of 4.

    hu: (D, H, W). unit: (1, D, H, W) in [-1, 1]. spacing: (d, h, w) in mm.
    """

    hu: np.ndarray
    unit: Tensor
    spacing: tuple[float, float, float]

    @classmethod
    def read(cls, path: Path) -> "Scan":
        volume = read_ct(path)
        d, h, w = (n - n % STEP for n in volume.hu.shape)
        hu = volume.hu[:d, :h, :w]
        return cls(hu, torch.from_numpy(hu_to_unit(hu, WINDOW))[None], volume.spacing)

    def scores(self, reconstruction: Tensor) -> dict[str, float]:
        """Of a reconstruction (1, D, H, W) in [-1, 1]."""
        hu = unit_to_hu(reconstruction[0].clamp(-1, 1), WINDOW).numpy()
        found = score(hu, self.hu, self.spacing, window_preset(WINDOW))
        return {"psnr": round(found.psnr, 2), "ssim": round(found.ssim, 4)}


def write_fine(source: Path, path: Path) -> None:
    """The scan at voxels of FINE mm."""
    volume = read_ct(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ct(path, *resample(volume.hu, volume.affine, (FINE, FINE, FINE)))


def trilinear(unit: Tensor) -> Tensor:
    """(1, D, H, W), 4 times smaller and back."""
    small = interpolate(unit[None], scale_factor=1 / STEP, mode="trilinear")
    return interpolate(small, size=unit.shape[1:], mode="trilinear")[0]


@torch.no_grad()
def linear_codec(train: Tensor, test: Tensor, channels: int) -> Tensor:
    """`test` (1, D, H, W) projected on the first principal components of the 4x4x4 blocks of `train`."""
    encoder, decoder = LinearEncoder(channels, lapped=False), LinearDecoder(channels, lapped=False)
    set_maps(encoder, decoder, *fit(train[None], channels, lapped=False))
    return decoder(encoder(test[None]))[0]


@torch.no_grad()
def reconstruct(codec: FrozenCodec, unit: Tensor, device: torch.device) -> tuple[Tensor, float | None]:
    """Through the codec and back, (1, D, H, W), and the perplexity of the codes it took."""
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        z = codec.encode_volume(unit.to(device))
        result = codec.decode_volume(z).cpu()
    perplexity = codec.vqgan.quantizer(z[None])[1].perplexity
    return result, None if perplexity is None else round(float(perplexity), 1)


def measure(folder: Path, settings: Sequence[str], steps: int, test: Scan, device: torch.device) -> dict[str, Any]:
    """Train a codec in a folder beside the data, then reconstruct the test scan."""
    places = [f"dataset.root={folder.parent}/data", f"run_dir={folder}", f"checkpoint_dir={folder}"]
    amount = [f"model.patches_per_volume={4 * steps}", f"model.max_steps={steps}"]
    seconds, _ = run("train_vqgan_patches_4gpu.py", [*places, *settings, *amount])
    codec = load_codec(folder / "last.ckpt")[0].to(device)
    started = time.monotonic()
    reconstruction, perplexity = reconstruct(codec, test.unit, device)
    bits = codec.vqgan.quantizer.bits
    return test.scores(reconstruction) | {
        "channels": codec.channels,
        "bits_per_voxel": round(bits / STEP**3, 3) if math.isfinite(bits) else None,
        "perplexity": perplexity,
        "train_s": seconds,
        "reconstruct_s": round(time.monotonic() - started, 1),
    }


@benchmark("train_vqgan")
def main(
    overrides: list[str],
    train: str = str(LIDC),
    test: str = str(TOTALSEG),
    out: str = "outputs/codec_quality",
    steps: int = 1500,
    channels: int = 8,
    codecs: tuple[str, ...] = tuple(CODECS),
    device: str = "auto",
) -> dict[str, Any]:
    if not set(codecs) <= CODECS.keys():
        raise UserError(f"codecs takes any of {','.join(CODECS)}; got {','.join(codecs)}")
    folder, fine = Path(out).absolute(), Path(out).absolute() / "fine.nii.gz"
    write_fine(Path(train), fine)
    write_pairs(folder / "data", {"train": Path(train), "fine": fine, "test": Path(test)})
    seen, unseen = Scan.read(Path(train)), Scan.read(Path(test))
    result: dict[str, Any] = {"steps": steps, "trilinear": unseen.scores(trilinear(unseen.unit))}
    for count in (4, channels):
        result[f"pca_{count}"] = unseen.scores(linear_codec(seen.unit, unseen.unit, count))
    log.info("%s", result)
    for name in codecs:
        settings = [*TRAINING.split(), f"model.embedding_dim={channels}", *CODECS[name], *overrides]
        result[name] = measure(folder / name, settings, steps, unseen, pick_device(device))
        log.info("%s: %s", name, result[name])
    return result


if __name__ == "__main__":
    main()
