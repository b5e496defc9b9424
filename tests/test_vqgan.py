import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common.keyed import KeyedRandom
from vq_gan_3d.discriminators import PatchDiscriminator
from vq_gan_3d.layers import ChannelsToSpace, SpaceToChannels
from vq_gan_3d.perceptual import VGG16Distance
from vq_gan_3d.quantizers import FiniteScalarQuantizer, KLBottleneck, VectorQuantizer
from vq_gan_3d.receptive_field import input_interval
from vq_gan_3d.vqgan import VQGAN


def randomized(network: VQGAN) -> VQGAN:
    """Without the zero-initialised layers, so that every layer matters."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    return network


def smooth_patches(count=4, side=16):
    torch.manual_seed(1)
    coarse = torch.randn(count, 1, side // 4 + 1, side // 4 + 1, side // 4 + 1)
    return nn.functional.interpolate(coarse, (side,) * 3, mode="trilinear", align_corners=True).tanh()


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.fixture(scope="module")
def guide():
    with torch.device("meta"):
        return VQGAN(64, 64, VectorQuantizer(16384, 64))


def test_the_autoencoder_has_the_guides_size(guide):
    assert parameters(guide) == pytest.approx(22.2e6, rel=0.03)
    assert guide.encode(torch.empty(1, 1, 128, 128, 128, device="meta")).shape == (1, 64, 32, 32, 32)


def test_the_other_networks_have_the_guides_size():
    with torch.device("meta"):
        slices, volumes = PatchDiscriminator(2), PatchDiscriminator(3)
        assert parameters(slices) == pytest.approx(2.76e6, rel=0.01)
        assert parameters(volumes) == pytest.approx(11.05e6, rel=0.01)
        assert parameters(VGG16Distance("random").features) == pytest.approx(14.7e6, rel=0.01)


def test_decoding_a_patch_takes_less_than_5_tflop(guide):
    with FlopCounterMode(display=False) as counter:
        guide.decode(torch.empty(1, 64, 32, 32, 32, device="meta"))
    assert counter.get_total_flops() < 5e12


def test_halos_stay_small(guide):
    assert (guide.encoder_halo, guide.decoder_halo) == (4, 6)


@pytest.mark.parametrize("blocks", [((0, 0), (0, 0)), ((1, 1), (1, 0)), ((0, 2), (1, 2))])
def test_the_halo_is_what_gradients_see(blocks):
    network = randomized(VQGAN(2, 2, KLBottleneck(2), encoder_blocks=blocks[0], decoder_blocks=blocks[1]).double())
    n = 11  # latent voxels along the first axis; odd, so that there is a middle one
    x = torch.randn(1, 1, 4 * n, 4, 4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(network.encode(x)[:, :, n // 2].sum(), x)
    seen = grad[0, 0].abs().sum((1, 2)).nonzero().flatten() // 4
    assert max(n // 2 - int(seen.min()), int(seen.max()) - n // 2) == network.encoder_halo

    z = torch.randn(1, 2, n, 1, 1, dtype=torch.float64, requires_grad=True)
    middle = slice(4 * (n // 2), 4 * (n // 2) + 4)
    (grad,) = torch.autograd.grad(network.decode(z)[:, :, middle].square().sum(), z)
    seen = grad[0].abs().sum((0, 2, 3)).nonzero().flatten()
    assert max(n // 2 - int(seen.min()), int(seen.max()) - n // 2) == network.decoder_halo


def test_the_reach_of_an_unknown_layer_is_refused():
    with pytest.raises(TypeError, match="GroupNorm"):
        input_interval(nn.GroupNorm(1, 4), (0, 3))


def test_space_to_channels_and_back_is_the_identity():
    x = torch.randn(2, 3, 4, 8, 12)
    blocks = SpaceToChannels(4)(x)
    assert blocks.shape == (2, 192, 1, 2, 3)
    torch.testing.assert_close(ChannelsToSpace(4)(blocks), x)


def test_the_linear_start_reconstructs_as_well_as_principal_components():
    patches = smooth_patches()
    network = VQGAN(4, 6, KLBottleneck(6)).eval()
    network.init_linear_from(patches)
    blocks = SpaceToChannels(4)(patches.double() - patches.double().mean()).movedim(1, -1)
    _, _, components = torch.linalg.svd(blocks.flatten(0, -2), full_matrices=False)
    basis = components[:6].T
    projected = ChannelsToSpace(4)((blocks @ basis @ basis.T).movedim(-1, 1)) + patches.mean()
    with torch.no_grad():
        z = network.encode(patches)
        torch.testing.assert_close(network.decode(z), projected.float(), atol=1e-4, rtol=0)
    assert float(z.square().mean().sqrt()) == pytest.approx(1, rel=1e-3)
    assert network.initialized


def test_sixty_four_channels_start_lossless():
    patches = smooth_patches()
    network = VQGAN(4, 64, KLBottleneck(64)).eval()
    network.init_linear_from(patches)
    torch.testing.assert_close(network(patches)[0], patches, atol=1e-4, rtol=0)


def _start_on_rank(rank, world, port_file, results):
    dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=world)
    torch.manual_seed(0)  # as DDP begins: the same weights everywhere
    network = VQGAN(4, 4, VectorQuantizer(16, 4))
    network.init_linear_from(smooth_patches() * (-1) ** rank)  # stands for components of the other sign
    torch.save(network.state_dict(), f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_all_ranks_start_from_the_same_linear_codec(tmp_path):
    mp.spawn(_start_on_rank, args=(2, tmp_path / "store", tmp_path), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in one.items():
        assert value.equal(other[name]), name


def test_training_improves_on_the_linear_start():
    patches = smooth_patches()
    network = VQGAN(4, 2, FiniteScalarQuantizer([8, 8]))
    network.init_linear_from(patches)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        reconstruction, info = network(patches)
        loss = (reconstruction - patches).abs().mean() + info.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_sizes_that_four_does_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 4 voxels, got \(8, 6, 8\)"):
        VQGAN(2, 2, KLBottleneck(2)).encode(torch.zeros(1, 1, 8, 6, 8))


def test_a_quantizer_of_another_width_is_refused():
    with pytest.raises(ValueError, match="got 4 and embedding_dim=8"):
        VQGAN(2, 8, KLBottleneck(4))


def test_a_wrong_number_of_levels_is_refused():
    with pytest.raises(ValueError, match="decoder_mults and decoder_blocks need two numbers"):
        VQGAN(2, 4, KLBottleneck(4), decoder_mults=(1, 2, 4))


def test_latent_noise_depends_on_the_key_and_leaves_no_trace_without():
    patches = smooth_patches()
    network = VQGAN(4, 4, KLBottleneck(4, initial_std=1e-9))
    network.init_linear_from(patches)
    keys = torch.arange(len(patches))

    def decoded(noise: float, shift: int = 0) -> torch.Tensor:
        return network(patches, KeyedRandom(keys + shift, "cpu"), noise)[0]

    clean = network(patches)[0]
    torch.testing.assert_close(decoded(0.0), clean, atol=1e-5, rtol=0)
    assert decoded(0.5).equal(decoded(0.5))
    assert not decoded(0.5).equal(decoded(0.5, shift=9))
    weak, strong = ((decoded(noise) - clean).detach().std().item() for noise in (0.1, 0.5))
    assert strong == pytest.approx(5 * weak, rel=0.05)
    each = (decoded(0.5) - clean).flatten(1).std(1)
    assert each.max() > 1.5 * each.min()  # every sample has a strength of its own
