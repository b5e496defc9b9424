"""Does the whole way hold on real scans at the guide's patch size? `python -m benchmarks.real_data out=FOLDER`

Trains both stages for some steps at 128³ with small networks on the LIDC scan of ../shared/data, with the X-ray
projected from it (the TotalSegmentator scan validates), then draws a CT on the LIDC scan's full 512×512×133 grid for
each real chest X-ray there. Prints each command; the last line is one JSON object with seconds, peak memory and what
the files hold.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.command import benchmark
from benchmarks.measure import ROOT, run
from dataset.scans.drr import frontal_drr, to_intensity
from dataset.scans.volume_io import read_ct
from dataset.scans.xray_io import write_xray

DATA = ROOT.parent / "shared" / "data"
LIDC, TOTALSEG = DATA / "lidc_idri_0001" / "ct.nii.gz", DATA / "totalseg_cta" / "ct.nii.gz"
SMALL = "model.num_workers=0 model.patches_per_volume=16 model.val_patches_per_volume=1 model.precision=bf16-mixed"
STAGE1 = (
    f"{SMALL} model.n_hiddens=8 model.embedding_dim=4 model.n_codes=512 quantizer=multi_vq model.batch_size=1"
    " model.effective_batch=null"
    " model.gan_weight=0 model.feature_weight=0 model.warmup_steps=5 model.train_lr=1e-3 model.max_epochs=1"
).split()
FAST = ["steps=4", "window_batch=2", "bf16=true"]
LATENTS = ["xray_encoder=tiny_random", "model.diffusion_num_channels=4"]
STAGE2 = (
    f"{SMALL} model.dim=16 model.dim_mults=[1,2,4] model.num_res_blocks=1 model.middle_blocks=1 model.train_lr=2e-3"
    " model.warmup_steps=10 model.lr_final=0.01 model.ema_decay=0.95 model.max_epochs=24 model.val_every_n_epochs=24"
).split()


def write_pairs(root: Path, scans: Mapping[str, Path], pixels: int = 512) -> None:
    """The scans, linked, each with the frontal X-ray projected from it; the last of several validates, others train."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["patient_id", "ct", "xray", "split"])
        for name, source in scans.items():
            ct = root / f"{name}.nii.gz"
            if not ct.exists():
                ct.symlink_to(source.absolute())
            volume = read_ct(ct)
            integrals, camera = frontal_drr(volume.hu, volume.spacing, pixels)
            write_xray(root / f"{name}.png", to_intensity(integrals), camera, synthetic=True)
            split = "val" if len(scans) > 1 and name == list(scans)[-1] else "train"
            table.writerow([name, ct.name, f"{name}.png", split])


def facts(path: Path, reference: Path) -> dict[str, Any]:
    """Whether a generated CT lies on the reference's grid, and its HU range."""
    made, real = nib.Nifti1Image.from_filename(path), nib.Nifti1Image.from_filename(reference)
    hu = np.asarray(made.dataobj)
    return {
        "shape": list(made.shape),
        "same_grid": made.shape == real.shape and bool(np.allclose(made.affine, real.affine, atol=1e-4)),
        "hu": [int(hu.min()), int(hu.max())],
    }


def commands(out: Path) -> dict[str, list[str]]:
    """The words of each command, by its name in the result."""
    data, vqgan, ddpm = f"dataset.root={out}/data", out / "vqgan", out / "ddpm"
    frozen = [data, *LATENTS, f"model.vqgan_ckpt={vqgan}/last.ckpt"]
    films = [f"xray={DATA / 'cxr'}", f"reference={LIDC}"]
    return {
        "prepare": ["prepare_data.py", data],
        "vqgan": ["train_vqgan_patches_4gpu.py", data, *STAGE1, *folders(vqgan)],
        "encode": ["encode_latents.py", *frozen],
        "ddpm": ["train_ddpm_patches_4gpu.py", *frozen, *STAGE2, *folders(ddpm)],
        "sample": ["sample_ddpm_patches.py", *films, f"ckpt={ddpm}/last.ckpt", f"output={out}/cts", *FAST],
    }


def folders(run_dir: Path) -> list[str]:
    return [f"run_dir={run_dir}", f"checkpoint_dir={run_dir}"]


@benchmark()
def main(out: str = "outputs/real_data") -> dict[str, Any]:
    folder = Path(out).absolute()
    write_pairs(folder / "data", {"lidc": LIDC, "totalseg": TOTALSEG})
    result: dict[str, Any] = {}
    for name, (script, *settings) in commands(folder).items():
        result[f"{name}_s"], result[f"{name}_gb"] = run(script, settings)
    return result | {"cts": {path.name: facts(path, LIDC) for path in sorted((folder / "cts").glob("*.nii.gz"))}}


if __name__ == "__main__":
    main()
