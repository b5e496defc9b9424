"""One file for another machine, with a model card: `python export_model.py ckpt=last.ckpt output=model.ckpt`."""

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from common.atomic import replacing, write_text
from common.errors import UserError
from common.tensor_hash import tensor_hash
from pipeline.checkpoints.card import model_card
from pipeline.checkpoints.networks import load_generator, write_export
from pipeline.cli import script

log = logging.getLogger(__name__)


@script("export_model")
def main(cfg: DictConfig) -> None:
    output = Path(cfg.output)
    _check_output(output, Path(cfg.ckpt), cfg.overwrite)
    card_file = output.with_suffix(".md")
    generator, description = load_generator(cfg.ckpt, cfg.vqgan_ckpt, xray_weights=cfg.xray_weights)
    denoiser = tensor_hash(generator.denoiser)
    card = model_card(generator, description, denoiser, cfg.licence, _read_metrics(cfg.metrics, denoiser))
    with replacing(output) as partial:
        write_export(partial, generator, description, card)
        again, _ = load_generator(partial)  # which compares the hashes of the other networks
        if tensor_hash(again.denoiser) != denoiser:
            raise RuntimeError(f"{output} would not hold what {cfg.ckpt} does")
    write_text(card_file, card)
    log.info("%s (%.0f MB): weights, VQ-GAN and X-ray encoder", output, output.stat().st_size / 1e6)
    log.info("model card: %s", card_file)


def _check_output(output: Path, ckpt: Path, overwrite: bool) -> None:
    if output.suffix != ".ckpt":
        raise UserError(f"output must end in .ckpt, got {output}")
    if output.exists() and ckpt.exists() and output.samefile(ckpt):
        raise UserError(f"output={output} is the checkpoint to export; choose another file")
    there = [str(path) for path in (output, output.with_suffix(".md")) if path.exists()]
    if there and not overwrite:
        raise UserError(f"{' and '.join(there)} would be replaced; overwrite=true does that, or choose another output")


def _read_metrics(path: str | None, denoiser_hash: str) -> dict[str, Any] | None:
    """An evaluation's metrics.json; ValueError if it is none or of another model."""
    if path is None:
        return None
    try:
        metrics = json.loads(Path(path).read_text())
        evaluated = metrics["settings"]["denoiser hash"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"metrics={path} is not a metrics.json that evaluate_ddpm_patches.py wrote") from error
    if evaluated != denoiser_hash:
        raise UserError(
            f"metrics={path} are those of another model: denoiser hash {evaluated[:12]}, this one has"
            f" {denoiser_hash[:12]}; evaluate this checkpoint with its averaged weights"
        )
    return metrics


if __name__ == "__main__":
    main()
