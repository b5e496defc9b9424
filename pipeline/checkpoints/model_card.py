"""The model card of an exported model: what it is, what it was made of, how good it is, what it is not for."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ddpm.generator import VolumeGenerator

USE = """\
For research on image synthesis only. **Not for diagnosis, treatment or any other clinical decision**: the volumes are
generated from a single chest X-ray, which does not determine a CT. Vessels, emboli, nodules and everything along the
direction of view are drawn from what the training data makes likely; a finding in a generated volume is no evidence of
a finding in the patient, and its absence is none of health. Generated files say so in their header."""
LIMITS = """\
- X-rays that are not frontal, or unlike the training ones in kind (real or projected from CTs), exposure or position.
- Patients unlike the training ones: age, anatomy, devices, diseases.
- HU outside the window above; fields of view larger than in training."""


def model_card(
    generator: VolumeGenerator,
    meta: Mapping[str, Any],
    hashes: Mapping[str, str],
    licence: str,
    metrics: Mapping[str, Any] | None,
) -> str:
    """Markdown.

    Args:
        generator, meta: of `checkpoint.load_generator`.
        hashes: of the networks' tensors, by name.
        metrics: content of an evaluation's metrics.json.
    """
    sections = {
        "Intended use": USE,
        "Networks": _table(("part", "kind", "parameters"), _networks(generator, meta)),
        "Training data": _table(("", ""), _data(meta)),
        "Evaluation": _evaluation(metrics) if metrics else "No evaluation was given at export.",
        "Where it will fail": LIMITS,
        "Made with": _table(("", ""), [*meta["versions"].items(), *((f"{k} (SHA-256)", v) for k, v in hashes.items())]),
        "Licence": licence,
    }
    use = "`python sample_ddpm_patches.py ckpt=THIS_FILE xray=chest.png output=ct.nii.gz` needs no other file."
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"# X-ray → CTPA\n\nLatent diffusion that draws a chest CT from one frontal X-ray. {use}\n\n{body}\n"


def _networks(generator: VolumeGenerator, meta: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    denoiser, parts = generator.denoiser, meta["parts"]
    vqgan: Any = generator.codec.vqgan  # type: ignore[attr-defined]
    unet, quantizer = parts["denoiser"]["unet"], parts["vqgan"]["quantizer"]["part"]
    rows: list[tuple[Any, ...]] = [
        (
            "denoiser",
            f"UNet3D, dim {unet['dim']}, dim_mults {unet['dim_mults']}, averaged weights",
            _millions(denoiser),
        ),
        ("diffusion", f"{parts['diffusion']['part']}, predicts {generator.diffusion.prediction}", ""),
        ("codec", f"{parts['vqgan']['part']}, {vqgan.embedding_dim} latent channels, {quantizer}", _millions(vqgan)),
        ("X-ray encoder", parts["xray_encoder"]["part"], _millions(generator.xray_encoder)),
    ]
    return [*rows, ("X-ray conditions", ", ".join(parts["denoiser"]["cond"]), "")]


def _data(meta: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    ranges = ", ".join(f"{kind}: {low:.3g} to {high:.3g}" for kind, (low, high) in meta["xray_ranges"].items())
    cases = ", ".join(f"{count} {split}" for split, count in meta.get("cases", {}).items() if count)
    return [
        ("cases", cases or "not recorded"),
        ("HU window", f"{meta['hu_window'][0]} to {meta['hu_window'][1]}"),
        ("median volume (d, h, w)", f"{_times(meta['shape'])} voxels of {_times(meta['spacing'])} mm"),
        ("patch, stride", f"{_times(meta['patch_size'])}, {_times(meta['stride'])} voxels"),
        ("X-ray kinds and ranges of their values", ranges),
        ("X-ray side where files do not tell", f"{meta['xray_fov_mm']:g} mm"),
    ]


def _evaluation(metrics: Mapping[str, Any]) -> str:
    settings = metrics["settings"]
    drawn = (
        f"Split {settings['split']}, {len(metrics['cases'])} cases, {settings['steps']} steps of {settings['sampler']}"
    )
    rows = [(name, _number(value)) for name, value in metrics["summary"].items()]
    samples = f", {settings['num_samples']} CTs averaged per X-ray"
    return f"{drawn}{samples}. `evaluate_ddpm_patches.py` defines the metrics.\n\n" + _table(("metric", ""), rows)


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _millions(network: nn.Module) -> str:
    count = sum(p.numel() for p in network.parameters())
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"


def _times(values: Any) -> str:
    return " × ".join(f"{v:g}" for v in values)


def _number(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(_number(v) for v in value)
    if value is None:
        return "–"  # not defined, as a correlation of two cases
    return f"{value:.4g}" if isinstance(value, float) else str(value)
