"""Take over a VQ-GAN trained with medicaldiffusion or X-ray2CTPA, so that stage 2 can use it.

The network keeps its group normalisation, but with statistics recorded once from given CTs: only then does a tile or
a patch give what the whole volume gives.
"""

import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from torch import Tensor
from tqdm import tqdm

from common.atomic import replacing
from common.errors import UserError
from common.geometry import STEP, padded_shape, triple
from common.torch_file import check_claims
from dataset.intensity import check_window, hu_to_unit
from dataset.scans.volume_io import read_given_ct
from pipeline.checkpoints.checkpoint import StoredCheckpoint, write
from pipeline.checkpoints.description import ModelDescription
from pipeline.checkpoints.restricted_pickle import load, plain_state
from pipeline.cli import script
from pipeline.devices import pick_device
from pipeline.settings import plain
from pipeline.versions import versions
from vq_gan_3d.codec import FLOOR, FrozenCodec
from vq_gan_3d.group_norm_vqgan import GroupNormVQGAN
from vq_gan_3d.medicaldiffusion import Layout, codebook_range, find_settings, layout, renamed
from vq_gan_3d.recording import record_volumes

log = logging.getLogger(__name__)

IMPORTED = {"layout": "medicaldiffusion", "norm": "group"}


@script("import_vqgan")
def main(cfg: DictConfig) -> None:
    window, axes, output = _window(cfg.hu_window), _axes(cfg.axes), Path(cfg.output)
    if output.exists() and not cfg.overwrite:
        raise UserError(f"{output} exists; overwrite=true replaces it, or give another output=")
    state, sizes = _read(cfg.ckpt)
    about = ModelDescription(
        stage="vqgan",
        parts={"vqgan": _describe(sizes)},
        hu_window=window,
        versions=versions(),
        imported=IMPORTED | {"axes": axes, "codebook_minmax": list(codebook_range(state))},
    )
    network = _network(StoredCheckpoint(Path(cfg.ckpt), about, renamed(state, axes)))
    names = list(cfg.statistics_from) if isinstance(cfg.statistics_from, ListConfig) else [cfg.statistics_from]
    volumes = [_volume(name, window) for name in names]
    network.to(pick_device(cfg.device))
    log.info("recording the statistics of %d normalisations over %d CTs", len(network.norms), len(volumes))
    with tqdm(total=len(network.norms), unit="norm", disable=not sys.stderr.isatty()) as bar:
        codec = record_volumes(network, volumes, cfg.tile, cfg.tiles_per_volume, bar.update)
    for name, ct in zip(names, volumes, strict=True):
        log.info("the middle of %s through the codec and back: PSNR %.1f dB", name, _psnr(codec, ct, cfg.tile))
    log.info("with other axes than its training had, or another hu_window, that is lower")
    with replacing(output) as temporary:
        write(temporary, about, {"vqgan": codec.vqgan})
    log.info(
        "wrote %s; stage 2 takes it with model.vqgan_ckpt=%s model.diffusion_num_channels=%d 'dataset.hu_window=%s'",
        *(output, output, sizes.embedding_dim, list(window)),
    )


def _window(values: Any) -> tuple[float, float]:
    check_window(values)
    low, high = plain(values)
    return low, high


def _axes(axes: str | None) -> str:
    if axes is None:
        raise UserError(
            "axes has no value: in which order did the older training feed the axes? axes=zxy for medicaldiffusion's"
            " loaders of NIfTI files, axes=zyx for X-ray2CTPA's; if you do not know, import with each and keep the one"
            " with the higher PSNR"
        )
    return axes


def _read(path: str) -> tuple[Mapping[str, Tensor], Layout]:
    """The tensors of a Lightning checkpoint and the sizes of its network."""
    stored = load(path)
    state = stored.get("state_dict")
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is no Lightning checkpoint: it has no state_dict of tensors")
    check_claims(state, Path(path))
    try:
        return state, layout(state, find_settings(plain_state(stored.get("hyper_parameters"))))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _describe(sizes: Layout) -> dict[str, Any]:
    """The network as `parts.build` takes it."""
    network = asdict(sizes)
    quantizer = {"part": "VectorQuantizer", "n_codes": network.pop("n_codes"), "dim": sizes.embedding_dim}
    return {"part": "GroupNormVQGAN", **network, "quantizer": quantizer}


def _network(stored: StoredCheckpoint) -> GroupNormVQGAN:
    network: GroupNormVQGAN = stored.built("vqgan")
    recorded = {name: t for name, t in network.state_dict().items() if name.endswith((".mean", ".variance"))}
    return stored.load(network, {**stored.state, **recorded})


def _volume(path: str, window: tuple[float, float]) -> Tensor:
    """A CT (1, D, H, W) in [-1, 1], padded at the high ends to multiples of 4 with the window's floor."""
    unit = torch.from_numpy(hu_to_unit(read_given_ct(path).hu, window))
    d, h, w = unit.shape
    volume = torch.full((1, *padded_shape((d, h, w))), FLOOR)
    volume[0, :d, :h, :w] = unit
    return volume


def _psnr(codec: FrozenCodec, ct: Tensor, tile: int) -> float:
    """Of a reconstruction of the middle of a CT (1, D, H, W), in dB; the range [-1, 1] is 2 wide."""
    size = [min(n, tile * STEP) for n in ct.shape[1:]]
    d, h, w = (slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(triple(ct.shape[1:]), size, strict=True))
    middle = ct[:, d, h, w]
    error = codec.decode_volume(codec.encode_volume(middle, tile), tile).clamp(-1, 1) - middle
    return float(10 * torch.log10(4 / error.square().mean().clamp_min(1e-12)))


if __name__ == "__main__":
    main()
