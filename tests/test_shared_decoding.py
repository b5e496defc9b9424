"""Several processes decode one volume: each its tiles, the first of them gets all slabs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from common.collectives import Team
from pipeline.sampling.ct_sampler import CTSampler

LATENT = (7, 3, 3)  # latent voxels; its last tiles lie beyond SHAPE
SHAPE, TILE = (18, 12, 11), 2


def latent(model):
    return torch.randn(model.generator.denoiser.latent_channels, *LATENT, generator=torch.Generator().manual_seed(1))


def _member(rank, size, folder, ckpt):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    try:
        model = CTSampler(ckpt, device="cpu")
        decoded = []
        kept = model.generator.codec.vqgan.decode
        model.generator.codec.vqgan.decode = lambda *box: (decoded.append(1), kept(*box))[1]
        slabs = list(model.slabs(latent(model), SHAPE, TILE, Team(rank, size)))
        (Path(folder) / f"{rank}.txt").write_text(f"{len(decoded)} {len(slabs)}")
        if slabs:
            np.save(f"{folder}/shared.npy", np.concatenate([slab for _, slab in slabs]))
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("size", [2, 3])
def test_a_team_decodes_the_volume_of_one_and_each_member_its_share(size, tmp_path, workshop):
    model = CTSampler(workshop.ddpm_ckpt, device="cpu")
    alone = model.decode(latent(model), SHAPE, TILE)
    torch.multiprocessing.spawn(_member, (size, str(tmp_path), str(workshop.ddpm_ckpt)), nprocs=size)
    np.testing.assert_array_equal(np.load(tmp_path / "shared.npy"), alone)
    counts = [tuple(map(int, (tmp_path / f"{rank}.txt").read_text().split())) for rank in range(size)]
    assert [slabs for _, slabs in counts] == [3] + [0] * (size - 1)
    tiles = 3 * 2 * 2
    assert [n for n, _ in counts] == [len(range(rank, tiles, size)) for rank in range(size)]
