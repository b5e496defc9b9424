"""Patches of CT pulmonary angiograms, each with its patient's chest X-ray."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from common.errors import UserError
from common.geometry import STEP, Triple, overlap, padded_shape, triple, whole_latents
from common.patches import extract_patches_3d, grid_coords, stitch_patches
from common.recent import Recent
from dataset.intensity import hu_to_unit
from dataset.patch_starts import RandomStarts
from dataset.patient_items import EncoderInput, PatientItems
from dataset.sampler import sample_key
from dataset.scans.camera import Film
from dataset.scans.film_variants import FilmVariants
from dataset.store.latents import LatentCache
from dataset.store.store import MANIFEST, Store, StoredCase, VolumeStore

__all__ = ["EncoderInput", "XrayCTPAPatchDataset", "extract_patches_3d", "stitch_patches"]

# config/'s values, for whoever builds a dataset without it; a test holds them together
SHIPPED: Mapping[str, Any] = {
    "patch_size": (128, 128, 128),
    "patches_per_volume": 42,
    "hu_window": (-1000.0, 1000.0),
    "xray_fov_mm": 400.0,
    "seed": 42,
}
_PATIENTS_KEPT = 4  # the sampler lets draws of a patient follow one another


class XrayCTPAPatchDataset(Dataset[dict[str, Any]]):
    """`patches_per_volume` draws from every volume and epoch.

    Indices at or beyond `len` belong to later epochs (index = epoch * len + draw), so that a sampler alone decides
    what an epoch draws. Draws of a patient share the tensors of the X-ray: they are not to be changed in place.

    Items:
        ct: float32 (1, d, h, w) in [-1, 1], from HU clipped to `hu_window`; axes foot→head, front→back,
            patient right→left. With `latents` instead `latent`: float32 (C, d/4, h/4, w/4), unscaled.
        ct_context: float32 (1, d+2c, h+2c, w+2c), the patch with `context` voxels around it (only if that is > 0);
            beyond the volume it holds the window's floor.
        cxr: float32 (3, S, S), normalised for the X-ray encoder. With `latents` instead `xray_tokens` (N, T)
            and `xray_pooled` (P,).
        view_xray, view_camera and view_cxr, or view_tokens and view_pooled: as `xray`, ..., of all `views`, stacked in
            front (V, ...), if there are any; view_present: bool (V,), whether the patient has them.
        target: float32 (1,), label; NaN where the data set has none.
        patch_coord: int64 (3,), first voxel (d, h, w) of the patch in the oriented volume; below 0 in an overhang.
        xray: float32 (1, 512, 512) in [0, 1].
        xray_camera: float32 (3, 4), patient mm (right–left, front–back, foot–head, from the volume's centre; 1) →
            homogeneous (column, row).
        spacing: float32 (3,) in mm. volume_shape: int64 (3,), voxels without padding.
        patient_id: text. sample_key: int64 in [0, 2**32), names this draw. draw: int64, index within the epoch.

    Args:
        cases: the volumes of `store` to draw from.
        patch_size: (d, h, w) in voxels, multiples of 4.
        stride: (d, h, w); the grid from which patches are drawn. None draws them anywhere.
        encoder_input: what the X-ray encoder wants; None leaves `cxr` out, for stage 1.
        xray_fov_mm: side of the (square) X-ray in the patient's middle where its geometry is not known.
        film: how it was taken, likewise; an X-ray projected from a CT, with parallel rays.
        variants: films of each X-ray, of which every draw shows one; with `latents` those of the cache.
        foreground_share, overhang: of `RandomStarts`, which draws anywhere. An overhang holds the window's floor; it is
            for training a codec, which otherwise never sees how a volume ends.
        views: names of further X-rays to show, such as "lateral".

    Raises:
        ValueError: no cases, a patch size that 4 does not divide, what `RandomStarts` refuses, or overhanging latents.
    """

    def __init__(
        self,
        store: Store,
        cases: Sequence[StoredCase],
        patch_size: Sequence[int],
        patches_per_volume: int,
        hu_window: tuple[float, float],
        xray_fov_mm: float,
        seed: int,
        encoder_input: EncoderInput | None = EncoderInput(),  # noqa: B008 (frozen)
        stride: Sequence[int] | None = None,
        context: int = 0,
        latents: LatentCache | None = None,
        film: Film = Film(),  # noqa: B008 (frozen)
        variants: FilmVariants = FilmVariants(),  # noqa: B008 (frozen)
        foreground_share: float = 0.0,
        overhang: int = 0,
        views: Sequence[str] = (),
    ) -> None:
        self.patch_size = whole_latents(patch_size)
        if not cases:
            raise UserError(f"no cases to draw patches from in {store.folder}; prepare_data.py reports why")
        if overhang and latents is not None:
            raise UserError(f"latents end with the volume: overhang must be 0 with them, got {overhang}")
        self.store, self.cases, self.latents = store, list(cases), latents
        self.patches_per_volume, self.hu_window = patches_per_volume, hu_window
        self.variants, self.seed = variants, seed
        self.patients = PatientItems(store, latents, encoder_input, xray_fov_mm, film, variants, tuple(views))
        self.stride = None if stride is None else triple(stride, "stride")
        self.random_starts = RandomStarts(self.patch_size, foreground_share, overhang)
        self.context = context
        self._recent: Recent[dict[str, Any]] = Recent(_PATIENTS_KEPT)

    @classmethod
    def from_store(
        cls, root_or_store: Path | str | Store, split: str = "train", **settings: Any
    ) -> "XrayCTPAPatchDataset":
        """The patches of "train", "val" or "test", drawn as config/ ships it.

        Args:
            root_or_store: what prepare_data.py wrote: the folder, or that of the pairs if it lies there as `store`.
            settings: arguments of the class, in place of `SHIPPED`.

        Raises:
            FileNotFoundError: no prepared data there. ValueError: a split without cases, and what the class refuses.
        """
        if isinstance(root_or_store, Store):
            store = root_or_store
        else:
            beside = Path(root_or_store) / "store"
            store = VolumeStore(beside if (beside / MANIFEST).is_file() else root_or_store)
        return cls(store, store.cases_of(split), **{**SHIPPED, **settings})

    def __len__(self) -> int:
        return len(self.cases) * self.patches_per_volume

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.unpack(self.packed_item(index))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """One epoch, the first."""
        return map(self.__getitem__, range(len(self)))

    def packed_item(self, index: int) -> dict[str, Any]:
        """An item before `unpack`: `latent` is float16; in place of `ct` and `ct_context` stands `ct_hu`, int16.

        `ct_hu` (1, d+2c, h+2c, w+2c) holds the patch with its context c. That is half the memory, or less, to hand from
        a loader process to the training.
        """
        epoch, draw = divmod(index, len(self))
        case = self.cases[draw // self.patches_per_volume]
        start = self._start(case, epoch, draw)
        key = sample_key(self.seed, epoch, draw)
        film = self.variants.number(key)
        item = self._recent.get((case.name, film), lambda: self.patients.read(case, film)) | {
            "patch_coord": torch.tensor(start),
            "sample_key": torch.tensor(key),
            "draw": torch.tensor(draw),
        }
        if self.latents is not None:
            size = triple([n // STEP for n in self.patch_size])
            first = triple([s // STEP for s in start])
            item["latent"] = self.latents.read(case, first, size)
            return item
        d, h, w = (n + 2 * self.context for n in self.patch_size)
        first = triple([s - self.context for s in start])
        hu = read_padded(self.store, case, first, (d, h, w), floor_hu(self.hu_window))
        return item | {"ct_hu": torch.from_numpy(hu)[None]}

    def unpack(self, item: dict[str, Any]) -> dict[str, Any]:
        """A packed item, or a batch of them, as the class describes items."""
        if "latent" in item:
            return item | {"latent": item["latent"].float(memory_format=torch.contiguous_format)}
        item = dict(item)
        ct = hu_to_unit(item.pop("ct_hu"), self.hu_window)
        if self.context == 0:
            return item | {"ct": ct}
        inner = tuple(slice(self.context, -self.context) for _ in range(3))
        return item | {"ct": ct[(..., *inner)], "ct_context": ct}

    def _start(self, case: StoredCase, epoch: int, draw: int) -> Triple:
        volume, nth = divmod(draw, self.patches_per_volume)
        shape = padded_shape(case.shape, self.patch_size)
        if self.stride is None:
            rng = np.random.default_rng(sample_key(self.seed, epoch, draw))
            return self.random_starts.draw(rng, shape, case.body_box)
        corners = grid_coords(shape, self.patch_size, self.stride)
        order = np.random.default_rng(sample_key(self.seed, epoch, -2 - volume)).permutation(len(corners))
        return triple(corners[order[nth % len(corners)]].tolist())


def floor_hu(hu_window: tuple[float, float]) -> int:
    """What stands beyond a volume, in HU: the window's floor."""
    return math.floor(hu_window[0])


def read_padded(store: Store, case: StoredCase, start: Triple, size: Triple, fill: int) -> np.ndarray:
    """A box of a volume as int16 HU (d, h, w); beyond the volume it is `fill`."""
    out = np.full(size, fill, dtype=np.int16)
    inside = overlap(start, size, case.shape)
    if inside is not None:
        first, length, where = inside
        out[where] = store.read_hu(case, first, length)
    return out


def read_unit(
    store: Store, case: StoredCase, start: Triple, size: Triple, hu_window: tuple[float, float]
) -> np.ndarray:
    """A box of a volume as float32 (d, h, w) in [-1, 1]; beyond the volume it is the window's floor, -1."""
    return hu_to_unit(read_padded(store, case, start, size, floor_hu(hu_window)), hu_window)
