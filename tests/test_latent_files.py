"""What the latent cache writes, also where it cannot."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.errors import BadFileError, UserError
from common.json_file import read_json
from dataset.store import latent_file, latents
from dataset.store.latents import LatentCache, LatentSource, LatentWriter
from dataset.store.xray_features import XrayFeatures
from tests.disk import largest_file
from tests.test_store import stored_case


def made_tiles(shape, channels=8, more=None):
    """A latent (C, d, h, w) of noise in two tiles; `more` is called in between."""
    latent = torch.randn(channels, *shape, generator=torch.Generator().manual_seed(0))
    yield (0, 0, 0), latent[:, :, :, :3]
    if more is not None:
        more()
    yield (0, 0, 3), latent[:, :, :, 3:]


def test_tiles_in_any_place_come_back_as_one_array(tmp_path):
    shape, case, source = (5, 6, 7), stored_case("p"), LatentSource("codec", "encoder", (-1000.0, 1000.0))
    writer = LatentWriter(tmp_path, source, {})
    writer.write(case, shape, made_tiles(shape))
    writer.write_xray(case, XrayFeatures(torch.zeros(2, 3), torch.zeros(4)))
    writer.finish([case])
    cache = LatentCache(tmp_path, source, [case], [shape], {})
    whole = torch.cat([tile for _, tile in made_tiles(shape)], dim=3)
    assert torch.equal(cache.read(case, (0, 0, 0), shape), whole.half())
    assert torch.equal(cache.read(case, (1, 2, 3), (3, 2, 4)), whole.half()[:, 1:4, 2:4, 3:7])
    torch.testing.assert_close(cache.std, whole.flatten(1).std(1, correction=0))


def test_int8_takes_half_the_disk_and_comes_back_to_half_a_step(tmp_path):
    shape, case, source = (5, 6, 7), stored_case("p"), LatentSource("codec", "encoder", (-1000.0, 1000.0))
    scale = torch.tensor([1e-3, 1.0, 300.0, 0.0]).view(-1, 1, 1, 1)  # the last channel is empty

    def tiles():
        return ((start, tile * scale) for start, tile in made_tiles(shape, channels=4))

    half, small = (LatentWriter(tmp_path / dtype, source, {}, dtype=dtype) for dtype in ("float16", "int8"))
    for writer in (half, small):
        assert writer.bytes_missing([(case, shape)], 4) == 5 * 6 * 7 * 4 * (2 if writer is half else 1)
        writer.write(case, shape, tiles())
        writer.write_xray(case, XrayFeatures(torch.zeros(2, 3), torch.zeros(4)))
        writer.finish([case])
        assert writer.bytes_missing([(case, shape)], 4) == 0
    exact, stored = (LatentCache(writer.folder, source, [case], [shape], {}) for writer in (half, small))
    assert torch.equal(exact.mean, stored.mean)
    assert torch.equal(exact.std, stored.std)
    box = ((1, 2, 0), (3, 4, 7))
    wanted, found = exact.read(case, *box).float(), stored.read(case, *box)
    assert found.dtype == torch.float16
    largest = torch.cat([tile for _, tile in tiles()], 3).abs().amax((1, 2, 3)).view(-1, 1, 1, 1)
    assert ((found.float() - wanted).abs() <= largest / 254 + 1e-3 * wanted.abs()).all()
    assert found[0].any()
    sizes = [(writer.folder / "p.npy").stat().st_size - 128 for writer in (half, small)]
    assert sizes == [2 * 5 * 6 * 7 * 4, 5 * 6 * 7 * 4]
    assert sorted(path.name for path in small.folder.iterdir()) == ["latents.json", "p.json", "p.npy", "p.npz"]
    assert not LatentWriter(small.folder, source, {}).has_latents(case, shape)  # another dtype is asked for


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_full_disk_names_the_file_and_leaves_nothing_half_written(dtype, tmp_path):
    shape, case, source = (40, 40, 40), stored_case("p"), LatentSource("codec", "encoder", (-1000.0, 1000.0))
    writer = LatentWriter(tmp_path, source, {}, dtype=dtype)
    with largest_file(200_000), pytest.raises(OSError, match=r"File too large.*p\.npy"):
        writer.write(case, shape, made_tiles(shape))
    assert list(tmp_path.iterdir()) == []


def test_latents_take_their_room_on_the_disk_as_they_are_written(tmp_path):
    """A file that is mapped at its full size has no room of its own yet: to fill it may kill the process."""
    shape, source = (40, 40, 40), LatentSource("codec", "encoder", (-1000.0, 1000.0))
    taken = []

    def slabs():
        for plane in range(40):
            yield (plane, 0, 0), torch.randn(8, 1, 40, 40)
            (path,) = tmp_path.iterdir()
            taken.append((path.stat().st_size, 512 * path.stat().st_blocks))

    LatentWriter(tmp_path, source, {}).write(stored_case("p"), shape, slabs())
    assert len(taken) == 40
    assert all(room > 0.9 * size for size, room in taken)


def test_latents_that_are_being_replaced_are_not_taken_for_written(tmp_path):
    shape, case, source = (4, 4, 4), stored_case("p"), LatentSource("codec", "encoder", (-1000.0, 1000.0))
    writer = LatentWriter(tmp_path, source, {})
    writer.write(case, shape, made_tiles(shape))
    assert writer.has_latents(case, shape)

    def killed():
        raise KeyboardInterrupt

    other = LatentWriter(tmp_path, replace(source, codec_hash="other"), {}, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        other.write(case, shape, made_tiles(shape, more=killed))
    assert not writer.has_latents(case, shape)


@pytest.fixture
def replaced(tmp_path):
    """A finished cache of one case, how to open it, and a writer of another codec's."""
    shape, case, source = (5, 6, 7), stored_case("p"), LatentSource("codec", "encoder", (-1000.0, 1000.0))
    writer, features = LatentWriter(tmp_path, source, {}), XrayFeatures(torch.zeros(2, 3), torch.zeros(4))
    writer.write(case, shape, made_tiles(shape))
    writer.write_xray(case, features)
    writer.finish([case])

    def renew(**other):
        again = LatentWriter(tmp_path, replace(source, **other), {}, overwrite=True)
        again.write_xray(case, features)
        again.write(case, shape, made_tiles(shape))

    return case, lambda: LatentCache(tmp_path, source, [case], [shape], {}), renew


@pytest.mark.parametrize("moment", ["before a read", "while it was opened"])
def test_latents_that_are_replaced_are_not_taken_for_those_of_the_start(moment, replaced, monkeypatch):
    case, opened, renew = replaced

    def read_and_renew(*how):
        content = read_json(*how)
        renew(codec_hash="other")
        return content

    if moment == "while it was opened":
        monkeypatch.setattr(latents, "read_json", read_and_renew)
    cache = opened()
    if moment == "before a read":
        cache.read(case, (0, 0, 0), (5, 6, 7))
        renew(codec_hash="other")
    with pytest.raises(UserError, match=r"p\.npy is not the one .* has replaced it meanwhile"):
        cache.read(case, (0, 0, 0), (5, 6, 7))


def test_features_of_another_encoder_are_not_taken_for_those_of_the_start(replaced):
    case, opened, renew = replaced
    cache = opened()
    renew()
    cache.read_xray(case)  # made again, by the same encoder
    renew(encoder_hash="other")
    with pytest.raises(UserError, match=r"p\.npz holds features of another encoder"):
        cache.read_xray(case)


@pytest.mark.parametrize("channels", [1, 64], ids=["rows close together", "rows far apart"])
@pytest.mark.parametrize(
    ("start", "size"), [((0, 0, 0), (3, 40, 130)), ((1, 5, 37), (2, 8, 9)), ((2, 39, 0), (1, 1, 1))]
)
def test_a_crop_is_that_of_the_array_and_the_system_is_told_of_all_its_bytes(
    start, size, channels, tmp_path, monkeypatch
):
    whole = np.arange(3 * 40 * 130 * channels, dtype="<f2").reshape(3, 40, 130, channels)
    np.save(tmp_path / "a.npy", whole)
    where = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    np.testing.assert_array_equal(latent_file._crop(tmp_path / "a.npy", start, size), whole[where])
    told = np.zeros(whole.nbytes, bool)
    for first, last in latent_file._pieces(whole.shape, whole.itemsize, start, size):
        assert 0 <= first < last <= whole.nbytes
        told[first:last] = True
    needed = np.zeros(whole.shape, bool)
    needed[where] = True
    needed = np.repeat(needed.ravel(), whole.itemsize)
    assert not (needed & ~told).any()
    if channels == 64:
        assert (told == needed).all()


def test_a_truncated_file_is_no_crop(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((3, 4, 5, 64), "<f2"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadFileError, match="truncated"):
        latent_file.read_latent(path, (0, 0, 0), (3, 4, 5), latent_file.when_made(path))
