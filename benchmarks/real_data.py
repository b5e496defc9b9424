"""Does the whole way hold on real scans at the guide's patch size? `python -m benchmarks.real_data out=FOLDER`

Trains both stages for some steps at 128³ with small networks on the LIDC scan of ../shared/data, with the X-ray
projected from it (the TotalSegmentator scan validates), then draws a CT on the LIDC scan's full 512×512×133 grid for
each real chest X-ray there. Prints each command; the last line is one JSON object with seconds, peak memory and what
the files hold.
"""

import csv
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.options import own, reports_mistakes
from common.memory import PeakMemory
from dataset.scans.drr import frontal_drr, to_intensity
from dataset.scans.volume_io import read_ct
from dataset.scans.xray_io import write_xray

DATA = Path(__file__).parents[2] / "shared" / "data"
SCANS = {"lidc": "lidc_idri_0001/ct.nii.gz", "totalseg": "totalseg_cta/ct.nii.gz"}
SMALL = "model.num_workers=0 model.patches_per_volume=16 model.val_patches_per_volume=1 model.precision=bf16-mixed"
STAGE1 = (
    f"{SMALL} model.n_hiddens=8 model.embedding_dim=4 model.n_codes=512 quantizer=multi_vq model.batch_size=1"
    " model.gan_weight=0 model.feature_weight=0 model.warmup_steps=5 model.train_lr=1e-3 model.max_epochs=1"
).split()
FAST = ["steps=4", "window_batch=2", "bf16=true"]
LATENTS = ["xray_encoder=tiny_random", "model.diffusion_num_channels=4"]
STAGE2 = (
    f"{SMALL} model.dim=16 model.dim_mults=[1,2,4] model.num_res_blocks=1 model.middle_blocks=1 model.train_lr=2e-3"
    " model.warmup_steps=10 model.lr_final=0.01 model.ema_decay=0.95 model.max_epochs=24 model.val_every_n_epochs=24"
).split()


def write_pairs(root: Path, scans: Mapping[str, Path]) -> None:
    """The scans, linked, each with the frontal X-ray projected from it; the last one validates, the others train."""
    root.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for name, source in scans.items():
        ct = root / f"{name}.nii.gz"
        if not ct.exists():
            ct.symlink_to(source.absolute())
        volume = read_ct(ct)
        integrals, affine = frontal_drr(volume.hu, volume.spacing)
        write_xray(root / f"{name}.png", to_intensity(integrals), affine, synthetic=True)
        split = "val" if name == list(scans)[-1] else "train"
        rows.append({"patient_id": name, "ct": ct.name, "xray": f"{name}.png", "split": split})
    with (root / "pairs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def timed(name: str, command: str) -> dict[str, float]:
    """Seconds and peak memory of one command, quoted as in a shell; ends with its status if it fails."""
    print(f"\n$ python {command}", file=sys.stderr, flush=True)
    started, memory = time.monotonic(), PeakMemory()
    status = memory.watch(subprocess.Popen([sys.executable, *shlex.split(command)], stdout=sys.stderr))
    if status:
        sys.exit(status)
    return {f"{name}_s": round(time.monotonic() - started, 1), f"{name}_gb": round(memory.peak_gb, 2)}


def facts(path: Path, reference: Path) -> dict[str, object]:
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
    films = [f"xray={DATA / 'cxr'}", f"reference={DATA / SCANS['lidc']}"]
    return {
        "prepare": ["prepare_data.py", data],
        "vqgan": ["train_vqgan_patches_4gpu.py", data, *STAGE1, *folders(vqgan)],
        "encode": ["encode_latents.py", *frozen],
        "ddpm": ["train_ddpm_patches_4gpu.py", *frozen, *STAGE2, *folders(ddpm)],
        "sample": ["sample_ddpm_patches.py", *films, f"ckpt={ddpm}/last.ckpt", f"output={out}/cts", *FAST],
    }


def folders(run: Path) -> list[str]:
    return [f"run_dir={run}", f"checkpoint_dir={run}"]


@reports_mistakes("train_ddpm")
def main() -> None:
    out = Path(own(sys.argv[1:], {"out": "outputs/real_data"})["out"]).absolute()
    write_pairs(out / "data", {name: DATA / source for name, source in SCANS.items()})
    result: dict[str, object] = {}
    for name, words in commands(out).items():
        result |= timed(name, shlex.join(words))
    result["cts"] = {p.name: facts(p, DATA / SCANS["lidc"]) for p in sorted((out / "cts").glob("*.nii.gz"))}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
