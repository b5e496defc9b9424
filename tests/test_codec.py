import pytest
import torch
from torch import nn
from torch.nn.functional import pad

from common.geometry import slices
from common.tensor_hash import tensor_hash
from common.tiling import reader_of, tile_boxes
from vq_gan_3d.codec import FrozenCodec
from vq_gan_3d.quantizers import FiniteScalarQuantizer, VectorQuantizer
from vq_gan_3d.vqgan import VQGAN


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    network = VQGAN(4, 3, FiniteScalarQuantizer([8, 8, 5]))
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    network.quantizer.init_from(network.encode(torch.randn(1, 1, 16, 16, 16)).detach())
    return FrozenCodec(network)


@pytest.fixture(scope="module")
def ct():
    return torch.randn(1, 12, 28, 20, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


@pytest.mark.parametrize("tile", [2, 3, 4])
def test_encoding_in_tiles_equals_encoding_whole(codec, ct, tile):
    whole = codec.encode_volume(ct, tile=64)
    assert whole.shape == (3, 3, 7, 5)
    torch.testing.assert_close(codec.encode_volume(ct, tile), whole, rtol=0, atol=1e-4 * float(whole.std()))


@pytest.mark.parametrize("tile", [2, 3, 4])
def test_decoding_in_tiles_equals_decoding_whole(codec, ct, tile):
    z = codec.encode_volume(ct)
    whole = codec.decode_volume(z, tile=64)
    assert whole.shape == ct.shape
    torch.testing.assert_close(codec.decode_volume(z, tile), whole, rtol=0, atol=1e-4 * float(whole.std()))


def test_half_the_halo_would_not_do(codec, ct, monkeypatch):
    z, whole = codec.encode_volume(ct), codec.decode_volume(codec.encode_volume(ct))
    monkeypatch.setattr(codec, "encoder_halo", codec.encoder_halo // 2)
    monkeypatch.setattr(codec, "decoder_halo", codec.decoder_halo // 2)
    assert (codec.encode_volume(ct, 2) - z).abs().max() > 1e-3 * z.std()
    assert (codec.decode_volume(z, 2) - whole).abs().max() > 1e-3 * whole.std()


@pytest.mark.parametrize(
    ("first", "size"), [((0, 0, 0), (12, 1, 20)), ((5, 9, 2), (1, 19, 7)), ((11, 27, 3), (1, 1, 16))]
)
def test_a_box_can_be_decoded_or_encoded_by_itself(codec, ct, first, size):
    z = codec.encode_volume(ct)
    whole = codec.decode_volume(z)
    expected = whole[(slice(None), *slices(first, size))]
    box = codec.decode_box(lambda *where: z[(slice(None), *slices(*where))], ct.shape[1:], first, size)
    torch.testing.assert_close(box, expected, rtol=0, atol=1e-4 * float(whole.std()))
    low, n = [f // 4 for f in first], [-(-(f + s) // 4) - f // 4 for f, s in zip(first, size, strict=True)]
    latent = codec.encode_box(reader_of(ct), ct.shape[1:], low, n)
    torch.testing.assert_close(latent, z[(slice(None), *slices(low, n))], rtol=0, atol=1e-4 * float(z.std()))


@pytest.mark.parametrize("corner", [(0, 0, 0), (4, 8, 12), (4, 20, 12)])
def test_a_patch_with_context_gives_the_volumes_latent(codec, ct, corner):
    whole, c = codec.encode_volume(ct), codec.context
    surrounded = pad(ct, [c] * 6, value=-1.0)
    d, h, w = corner
    context = surrounded[:, d : d + 8 + 2 * c, h : h + 8 + 2 * c, w : w + 8 + 2 * c]
    z = codec.encode_patch(torch.stack([context, context]))
    expected = whole[:, d // 4 : d // 4 + 2, h // 4 : h // 4 + 2, w // 4 : w // 4 + 2]
    torch.testing.assert_close(z, torch.stack([expected, expected]), rtol=0, atol=1e-4 * float(whole.std()))


def test_beyond_the_volume_lies_the_floor(codec, ct):
    extended = pad(ct, [0, 16, 0, 16, 0, 16], value=-1.0)
    whole, longer = codec.encode_volume(ct), codec.encode_volume(extended)
    torch.testing.assert_close(longer[:, :3, :7, :5], whole, rtol=0, atol=1e-4 * float(whole.std()))
    floor = codec.encode_volume(torch.full((1, 8, 8, 8), -1.0))
    torch.testing.assert_close(floor, codec.floor_latent.view(3, 1, 1, 1).expand_as(floor), rtol=0, atol=1e-4)


def test_reading_by_boxes_stays_inside_the_volume(codec, ct):
    boxes = []

    def read(start, size):
        boxes.append((start, size))
        assert all(s >= 0 and s + n <= length for s, n, length in zip(start, size, ct.shape[1:], strict=True))
        d, h, w = (slice(s, s + n) for s, n in zip(start, size, strict=True))
        return ct[:, d, h, w]

    whole, covered = codec.encode_volume(ct), torch.zeros(3, 7, 5)
    for (d, h, w), z in codec.encode_tiles(read, (12, 28, 20), tile=3):
        box = (slice(d, d + z.shape[1]), slice(h, h + z.shape[2]), slice(w, w + z.shape[3]))
        covered[box] += 1
        torch.testing.assert_close(z, whole[(slice(None), *box)], rtol=0, atol=1e-4)
    assert covered.eq(1).all()
    assert len(boxes) == 1 * 3 * 2


def test_train_mode_and_gradients_never_reach_the_network(ct):
    torch.manual_seed(0)
    network = VQGAN(2, 4, VectorQuantizer(8, 4))
    network.init_linear_from(ct[None])
    codec = FrozenCodec(network)
    before = tensor_hash(codec)
    codec.train()
    nn.ModuleList([codec]).train()
    codec.decode_volume(codec.encode_volume(ct))
    assert not any(module.training for module in codec.modules())
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    assert tensor_hash(codec) == before


def test_autocast_changes_no_bit_of_a_latent_and_results_are_float32(codec, ct):
    context, exact = pad(ct, [codec.context] * 6, value=-1.0)[None], codec.encode_volume(ct)
    patch = codec.encode_patch(context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.encode_volume(ct), exact)
        assert torch.equal(codec.encode_patch(context), patch)
        volume = codec.decode_volume(exact)
    assert exact.dtype == patch.dtype == volume.dtype == torch.float32


def test_encoding_in_bfloat16_is_coarse_and_gives_float32(codec, ct):
    exact = codec.encode_volume(ct)
    ((_, z),) = codec.encode_tiles(reader_of(ct), tuple(ct.shape[1:]), bf16=True)
    assert z.dtype == torch.float32
    assert 0 < (z - exact).abs().mean() < 0.05 * exact.std()


def test_volumes_that_four_does_not_divide_and_missing_context_are_refused(codec):
    with pytest.raises(ValueError, match="multiples of 4 voxels"):
        codec.encode_volume(torch.zeros(1, 8, 8, 10))
    with pytest.raises(ValueError, match="16 voxels of context"):
        codec.encode_patch(torch.zeros(1, 1, 32, 64, 64))


@pytest.mark.parametrize(("shape", "tile"), [((5, 9, 7), 4), ((1, 1, 1), 8), ((34, 3, 16), 16)])
def test_tiles_are_balanced_and_cover_once(shape, tile):
    covered = torch.zeros(shape)
    for start, size in tile_boxes(shape, tile):
        assert max(size) <= tile
        covered[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] += 1
    assert covered.eq(1).all()
    assert sorted({size[0] for _, size in tile_boxes((34, 3, 16), 32)}) == [17]


def test_the_hash_tells_weights_apart():
    torch.manual_seed(0)
    one, same, other = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    same.load_state_dict(one.state_dict())
    assert tensor_hash(one) == tensor_hash(same) != tensor_hash(other)
    other.load_state_dict({name: value.bfloat16() for name, value in one.state_dict().items()})
    assert len(tensor_hash(one)) == 64


def test_half_precision_leaves_the_linear_map_exact():
    torch.manual_seed(0)
    network = VQGAN(8, 3, FiniteScalarQuantizer([8, 8, 5]), lapped=True)
    network.init_linear_from(torch.randn(2, 1, 16, 16, 16))
    codec = FrozenCodec(network)
    z = 3 * torch.randn(3, 5, 4, 6)

    def decoded(half):
        return torch.cat([block.flatten() for _, block in codec.decode_tiles(z, 3, half)])

    assert torch.equal(decoded(True), decoded(False))  # its convolutions add nothing yet
    nn.init.normal_(network.decoder.stages[-1][-1].weight, std=0.01)
    exact, rounded = decoded(False), decoded(True)
    assert 0 < float((exact - rounded).abs().max()) < 2e-3  # 2 HU
