"""The network of older checkpoints: the published layout, and tiles that equal the whole."""

import pytest
import torch
from torch.nn.functional import pad

from common.tensor_hash import tensor_hash
from common.weights import rename
from tests.published_vqgan import GROUPS, published_shapes, random_state, reference_decode, reference_encode
from vq_gan_3d.codec import FrozenCodec
from vq_gan_3d.group_norm import RecordedGroupNorm, record_statistics
from vq_gan_3d.group_norm_vqgan import GroupNormVQGAN
from vq_gan_3d.medicaldiffusion import LEFT_OUT, RENAMED, codebook_range, find_settings, layout, renamed
from vq_gan_3d.quantizers import VectorQuantizer
from vq_gan_3d.recording import record_volumes

SIZES = (4, 4, 32)  # n_hiddens, embedding_dim, n_codes


def network(state, axes="zyx"):
    made = GroupNormVQGAN(*SIZES[:2], VectorQuantizer(SIZES[2], SIZES[1]), GROUPS)
    recorded = {name: t for name, t in made.state_dict().items() if name.endswith((".mean", ".variance"))}
    made.load_state_dict(renamed(state, axes) | recorded)
    return made


@pytest.fixture(scope="module")
def state():
    return random_state(*SIZES)


@pytest.fixture(scope="module")
def ct():
    """(1, 36, 40, 36): a patient amid so much air that all layers see air alone at the faces."""
    inside = torch.rand(1, 4, 8, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return pad(inside, [16] * 6, value=-1.0)


@pytest.fixture(scope="module")
def codec(state, ct):
    return record_volumes(network(state), [ct])


def test_the_published_tensors_fit_one_to_one():
    shapes = published_shapes(64, 64, 16384)
    with torch.device("meta"):
        made = GroupNormVQGAN(64, 64, VectorQuantizer(16384, 64))
    ours = {name: tuple(t.shape) for name, t in made.state_dict().items()}
    theirs = {rename(name, RENAMED): shape for name, shape in shapes.items() if not name.startswith(LEFT_OUT)}
    theirs |= {name: (1, *shape) for name, shape in theirs.items() if "books" in name}
    new = {name for name in ours if name.endswith((".mean", ".variance"))}
    assert len(new) == 2 * (5 + 9)
    assert theirs == {n: s for n, s in ours.items() if n not in new and not n.endswith(("initialized", "updates"))}


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        made = GroupNormVQGAN(64, 64, VectorQuantizer(16384, 64))
    latent_convs = [*made.encoder.to_latent.parameters(), *made.decoder.from_latent.parameters()]
    encoder, decoder = (sum(p.numel() for p in part.parameters()) for part in (made.encoder, made.decoder))
    both = sum(p.numel() for p in latent_convs)
    assert both == 33_088
    assert encoder + decoder - both == 7_050_112 + 15_147_777
    assert encoder - sum(p.numel() for p in made.encoder.to_latent.parameters()) == 7_050_112


def test_a_recorded_volume_is_encoded_as_by_the_published_network(codec, state, ct):
    z = reference_encode(state, ct[None])
    found = codec.encode_volume(ct)
    torch.testing.assert_close(found, z[0], rtol=0, atol=1e-4 * float(z.std()))


def test_a_recorded_latent_is_decoded_as_by_the_published_network(state):
    made = network(state)
    z = torch.randn(1, 4, 4, 5, 3)
    record_statistics(made.decoder, lambda: [made.quantize(z)], halo=0)
    whole = reference_decode(state, z)
    decoded = made.decode(made.quantize(z))
    torch.testing.assert_close(decoded, whole, rtol=0, atol=1e-4 * float(whole.std()))


@pytest.mark.parametrize(
    ("axes", "theirs", "ours"),
    [("zxy", (0, 1, 2, 4, 3), (0, 1, 2, 4, 3)), ("xzy", (0, 1, 4, 2, 3), (0, 1, 3, 4, 2))],
)
def test_a_network_trained_on_other_axes_gives_what_it_gave_there(state, ct, axes, theirs, ours):
    z = reference_encode(state, ct[None].permute(theirs)).permute(ours)
    codec = record_volumes(network(state, axes), [ct])
    torch.testing.assert_close(codec.encode_volume(ct), z[0], rtol=0, atol=1e-4 * float(z.std()))
    decoded = reference_decode(state, z.permute(theirs)).permute(ours)
    made = network(state, axes)
    record_statistics(made.decoder, lambda: [made.quantize(z)], halo=0)
    found = made.decode(made.quantize(z))
    torch.testing.assert_close(found, decoded, rtol=0, atol=1e-4 * float(decoded.std()))


def test_axes_must_be_an_order_of_x_y_and_z(state):
    for axes in ("zxx", "zy", "dhw"):
        with pytest.raises(ValueError, match="order of the letters x, y and z"):
            renamed(state, axes)


def test_tiles_record_what_the_whole_records(state):
    ct = torch.rand(1, 16, 12, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1
    tiled, whole = (record_volumes(network(state), [ct], tile).vqgan.norms for tile in (2, 4))
    for one, other in zip(tiled, whole, strict=True):
        torch.testing.assert_close(one.mean, other.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.variance, other.variance, rtol=1e-4, atol=1e-5)


def test_tiles_equal_the_whole(codec):
    other = torch.rand(1, 16, 20, 12, generator=torch.Generator().manual_seed(2)) * 2 - 1
    z = codec.encode_volume(other, tile=64)
    torch.testing.assert_close(codec.encode_volume(other, tile=3), z, rtol=0, atol=1e-4 * float(z.std()))
    whole = codec.decode_volume(z, tile=64)
    torch.testing.assert_close(codec.decode_volume(z, tile=3), whole, rtol=0, atol=1e-4 * float(whole.std()))


def test_a_patch_with_context_gives_the_volumes_latent(codec, ct):
    c = codec.context
    assert c == 16
    z = codec.encode_patch(ct[None])
    whole = codec.encode_volume(ct)
    torch.testing.assert_close(z[0], whole[:, 4:-4, 4:-4, 4:-4], rtol=0, atol=1e-4 * float(whole.std()))


def test_a_smaller_halo_would_not_do(codec, monkeypatch):
    other = torch.rand(1, 24, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1
    z = codec.encode_volume(other)
    whole = codec.decode_volume(z)
    for name in ("encoder_halo", "decoder_halo"):
        monkeypatch.setattr(codec, name, getattr(codec, name) - 1)
    assert (codec.encode_volume(other, 2) - z).abs().max() > 1e-3 * z.std()
    assert (codec.decode_volume(z, 2) - whole).abs().max() > 1e-3 * whole.std()


def test_statistics_are_those_of_all_volumes_together():
    norm = RecordedGroupNorm(4, 2)
    inputs = [torch.randn(1, 4, 3, 3, 3) * 3 + 5, torch.randn(2, 4, 2, 2, 2)]
    norm.record(inputs)
    values = torch.cat([x.movedim(1, 0).reshape(2, -1) for x in inputs], 1)
    torch.testing.assert_close(norm.mean, values.mean(1))
    torch.testing.assert_close(norm.variance, values.var(1, unbiased=False))
    one = torch.randn(1, 4, 3, 3, 3)
    norm.record([one])
    torch.testing.assert_close(norm(one), torch.nn.functional.group_norm(one, 2, eps=1e-6))
    assert norm(one.bfloat16()).dtype == torch.bfloat16


def test_some_tiles_give_nearly_the_statistics_of_all(state):
    noise = torch.rand(1, 32, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    every, some = (record_volumes(network(state), [noise], 2, most) for most in (None, 2))
    last, approximate = (codec.vqgan.norms[-1].variance for codec in (every, some))
    assert not torch.equal(last, approximate)
    torch.testing.assert_close(last, approximate, rtol=0.2, atol=0)


def test_the_codebook_stays(codec, state, ct):
    before = tensor_hash(codec.vqgan)
    codec.train()
    codec.decode_volume(codec.encode_volume(ct))
    assert tensor_hash(codec.vqgan) == before
    assert torch.equal(codec.vqgan.quantizer.books.codes[0], state["codebook.embeddings"])
    assert bool(codec.vqgan.quantizer.books.initialized)
    low, high = codebook_range(state)
    assert (low, high) == (float(state["codebook.embeddings"].min()), float(state["codebook.embeddings"].max()))


def test_sizes_are_read_from_shapes_and_settings(state):
    found = layout(state, {"num_groups": 8})
    assert (found.n_hiddens, found.embedding_dim, found.n_codes, found.groups) == (*SIZES, 8)
    assert layout(state, {}).groups == 32
    nested = {"cfg": {"dataset": {"image_channels": 1}, "model": {"n_hiddens": 16, "num_groups": 8}}}
    assert find_settings(nested)["num_groups"] == 8
    assert find_settings({"args": None}) == {}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"downsample": [2, 4, 4]}, r"downsample=\[2, 4, 4\] \(need \[4, 4, 4\]\)"),
        ({"norm_type": "batch"}, "norm_type=batch"),
        ({"padding_type": "reflect"}, "padding_type=reflect"),
    ],
)
def test_networks_of_another_kind_are_refused(state, settings, said):
    with pytest.raises(ValueError, match=said):
        layout(state, settings)


def test_a_codec_that_halves_once_is_refused(state):
    halved = {name: t for name, t in state.items() if ".conv_blocks.1." not in name}
    with pytest.raises(ValueError, match=r"downsample=\[2, 2, 2\]"):
        layout(halved, {})
    with pytest.raises(ValueError, match="it lacks"):
        layout({"weight": torch.zeros(1)}, {})


def test_the_quantizer_must_fit():
    with pytest.raises(ValueError, match="embedding_dim=4 channels, got 8"):
        GroupNormVQGAN(16, 4, VectorQuantizer(8, 8))
    with pytest.raises(ValueError, match="groups must divide"):
        GroupNormVQGAN(8, 4, VectorQuantizer(8, 4))
    assert isinstance(FrozenCodec(GroupNormVQGAN(16, 4, VectorQuantizer(8, 4))), FrozenCodec)
