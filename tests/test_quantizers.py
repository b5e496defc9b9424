import copy
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from common.keyed import KeyedRandom
from common.tensor_hash import tensor_hash
from vq_gan_3d import codebook
from vq_gan_3d.quantizers import FiniteScalarQuantizer, KLBottleneck, VectorQuantizer


def clusters(count=8, dim=4, per_cluster=64):
    """Latents around `count` well separated centres, and the centres."""
    stream = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(count, dim, generator=stream)
    z = centres.repeat_interleave(per_cluster, 0) + 0.01 * torch.randn(count * per_cluster, dim, generator=stream)
    return z.T.reshape(1, dim, count, 8, per_cluster // 8), centres


KINDS = {
    "vq": lambda: VectorQuantizer(16, 4),
    "multi_vq": lambda: VectorQuantizer(8, 4, groups=2),
    "fsq": lambda: FiniteScalarQuantizer([8, 8, 5, 5]),
    "kl": lambda: KLBottleneck(4),
}


@pytest.fixture(params=list(KINDS))
def quantizer(request):
    torch.manual_seed(0)
    made = KINDS[request.param]()
    made.init_from(clusters()[0])
    return made


def test_inference_equals_the_forward_pass_in_eval_mode_and_changes_nothing(quantizer):
    z = torch.randn(2, 4, 3, 2, 5)
    before = tensor_hash(quantizer)
    expected, _ = quantizer.eval()(z)
    torch.testing.assert_close(quantizer.train().quantize(z), expected)
    assert tensor_hash(quantizer) == before


def test_gradients_pass_straight_through(quantizer):
    z = clusters()[0].clone().requires_grad_()
    z_q, _ = quantizer.eval()(z)
    z_q.sum().backward()
    assert z.grad.median().item() == pytest.approx(1, abs=0.1)  # fsq: less where its bound saturates
    assert z.grad.min() > 0
    assert z.grad.max() < 2


def test_each_voxel_is_quantised_by_itself(quantizer):
    z = torch.randn(1, 4, 4, 4, 4)
    part = quantizer.quantize(z[:, :, 1:3, 2:, :1])
    torch.testing.assert_close(quantizer.quantize(z)[:, :, 1:3, 2:, :1], part)


def test_low_precision_latents_are_quantised_in_float32(quantizer):
    z = torch.randn(1, 4, 2, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z_q, info = quantizer(z.bfloat16())
    assert z_q.dtype == info.loss.dtype == quantizer.quantize(z.bfloat16()).dtype == torch.float32


def test_quantising_twice_changes_nothing_more(quantizer):
    once = quantizer.quantize(torch.randn(1, 4, 4, 4, 4))
    torch.testing.assert_close(quantizer.quantize(once), once, rtol=1e-4, atol=1e-5)


def test_information_per_latent_voxel():
    assert VectorQuantizer(16, 4).bits == 4
    assert VectorQuantizer(8, 4, groups=2).bits == 6
    assert FiniteScalarQuantizer([8, 8, 4]).bits == 8
    assert KLBottleneck(4).bits == math.inf


def test_the_codebook_finds_the_clusters_and_reports_their_number():
    torch.manual_seed(0)
    z, centres = clusters()
    quantizer = VectorQuantizer(16, 4)
    for _ in range(20):
        z_q, info = quantizer(z)
    assert float((z_q - z).abs().max()) < 0.1
    assert 8 <= float(info.perplexity) <= 16
    assert torch.cdist(centres, quantizer.books.codes[0]).min(1).values.max() < 0.1


def test_the_nearest_code_is_found_in_chunks(monkeypatch):
    torch.manual_seed(0)
    books = VectorQuantizer(32, 6, groups=2).books
    vectors = torch.randn(2, 50, 3)
    expected = torch.cdist(vectors, books.codes).argmin(2)
    monkeypatch.setattr(codebook, "_DISTANCES_AT_ONCE", 7 * 32)
    assert books.nearest(vectors).equal(expected)


def test_dead_codes_come_back_to_life():
    torch.manual_seed(0)
    z, _ = clusters()
    quantizer = VectorQuantizer(8, 4)
    quantizer.init_from(z)
    quantizer.books.codes[0, 4:] = quantizer.books.sums[0, 4:] = 1e4  # too far away to be chosen
    quantizer.books.counts[0, 4:] = 1e-3
    assert float(quantizer.eval()(z)[1].perplexity) <= 4.01
    quantizer.train()(z)
    assert quantizer.books.codes.abs().max() < 100
    assert float(quantizer.eval()(z)[1].perplexity) > 4.5


def test_codes_follow_the_moving_average():
    quantizer = VectorQuantizer(1, 2, decay=0.9)
    quantizer.init_from(torch.zeros(1, 2, 2, 1, 1))
    for _ in range(10):
        quantizer(torch.ones(1, 2, 2, 1, 1))
    torch.testing.assert_close(quantizer.books.codes, torch.full((1, 1, 2), 1 - 0.9**10))


def test_the_commitment_loss_pulls_latents_to_their_codes():
    quantizer = VectorQuantizer(1, 2, commitment=0.25).eval()
    quantizer.books.codes.zero_()
    z = torch.full((1, 2, 1, 1, 1), 3.0, requires_grad=True)
    _, info = quantizer(z)
    assert info.loss.item() == pytest.approx(0.25 * 9)
    info.loss.backward()
    torch.testing.assert_close(z.grad, torch.full_like(z, 0.25 * 3))


def test_the_codebook_is_drawn_once_and_survives_saving_loading_and_train_mode():
    torch.manual_seed(0)
    z, _ = clusters()
    trained = VectorQuantizer(16, 4)
    assert not trained.books.initialized
    trained(z)
    loaded = VectorQuantizer(16, 4)
    loaded.load_state_dict(copy.deepcopy(trained.state_dict()))
    assert loaded.books.initialized
    assert tensor_hash(loaded) == tensor_hash(trained)
    far_away = torch.full((1, 4, 2, 2, 2), 50.0)
    loaded.train()(far_away)
    drift = (loaded.books.codes - trained.books.codes).norm(dim=2)
    assert (drift[trained.books.counts > 1] < 10).any()  # a new draw would put every code at the new data


@pytest.mark.parametrize("steps", [0, 3])
def test_what_is_loaded_into_a_codebook_in_use_goes_on_as_it_would_have(steps):
    torch.manual_seed(0)
    z, _ = clusters()
    saved, in_use = VectorQuantizer(32, 4), VectorQuantizer(32, 4)
    for _ in range(steps):
        saved(z)
    in_use(z + 1)
    in_use.load_state_dict(copy.deepcopy(saved.state_dict()))
    for quantizer in (saved, in_use):
        quantizer.books.counts[0, 8:] = 0  # these are drawn anew, by the number of updates
        quantizer(z)
    assert saved.books.initialized
    assert tensor_hash(in_use) == tensor_hash(saved)


def test_fsq_levels_are_near_the_best_for_a_normal_distribution():
    best = {4: 0.1175, 8: 0.0345, 16: 0.0095}  # Max 1960, table 1
    for levels, error in best.items():
        quantizer = FiniteScalarQuantizer([levels])
        z = torch.randn(1, 1, 40, 40, 40, generator=torch.Generator().manual_seed(0)) * 3 + 2
        quantizer.init_from(z)
        z_q = quantizer.quantize(z)
        assert len(z_q.unique()) == levels
        assert (z_q - z).square().mean() / 9 < 1.3 * error


def test_fsq_state_is_saved():
    quantizer = FiniteScalarQuantizer([8, 8])
    quantizer.init_from(3 + torch.randn(1, 2, 4, 4, 4))
    loaded = FiniteScalarQuantizer([8, 8])
    loaded.load_state_dict(quantizer.state_dict())
    z = torch.randn(1, 2, 4, 4, 4)
    torch.testing.assert_close(loaded.quantize(z), quantizer.quantize(z))


def test_kl_draws_by_the_samples_keys_and_pulls_to_a_unit_normal():
    bottleneck = KLBottleneck(2, weight=1.0, initial_std=0.5)
    z = torch.zeros(1, 2, 16, 16, 16)
    drawn, info = bottleneck(z, KeyedRandom(torch.tensor([5]), "cpu"))
    assert drawn.equal(bottleneck(z, KeyedRandom(torch.tensor([5]), "cpu"))[0])
    assert not drawn.equal(bottleneck(z, KeyedRandom(torch.tensor([6]), "cpu"))[0])
    assert drawn.std().item() == pytest.approx(0.5, rel=0.03)
    assert bottleneck(z)[0].equal(z)
    assert info.loss.item() == pytest.approx(0.5 * (0.25 - 1 - math.log(0.25)), rel=1e-4)
    assert info.perplexity is None


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="got 3 groups and 4 channels"):
        VectorQuantizer(8, 4, groups=3)
    with pytest.raises(ValueError, match=r"got \[8, 1\]"):
        FiniteScalarQuantizer([8, 1])
    with pytest.raises(ValueError, match="decay < 1"):
        VectorQuantizer(8, 4, decay=1.0)


def _train_on_rank(rank, world, port_file, results):
    dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=world)
    torch.manual_seed(rank)
    quantizer, z = VectorQuantizer(16, 4, groups=2), torch.randn(1, 4, 4, 4, 4)
    for step in range(3):
        z_q, info = quantizer(z + step)
    torch.save((quantizer.state_dict(), info.perplexity), f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_with_different_data_keep_one_codebook(tmp_path):
    mp.spawn(_train_on_rank, args=(2, tmp_path / "store", tmp_path), nprocs=2)
    (one, perplexity), (other, same) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in one.items():
        assert value.equal(other[name]), name
    assert perplexity == same
