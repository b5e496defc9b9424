"""From X-ray files to files of drawn CTs, skipping those that are finished."""

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from common.collectives import Team
from common.launcher import rank_and_world
from common.voxel_file import VoxelFile
from ddpm.plan import SamplingPlan, XrayInput, check_whole
from ddpm.samplers import MEAN
from pipeline.sampling.ct_sampler import CTSampler, Placement
from pipeline.sampling.decoding import AUTO
from pipeline.sampling.files import (
    file_hash,
    is_finished,
    naming_disk,
    sample_paths,
    statistic_paths,
    write_sample,
    write_statistics,
)
from pipeline.sampling.views import views_of
from pipeline.versions import versions

log = logging.getLogger(__name__)
_RUN_SETTINGS = ("window_batch", "latent_device")  # of a plan; they change time and memory, not the CT


def plan_facts(plan: SamplingPlan) -> dict[str, Any]:
    """What of a plan changes the CT."""
    return {key: value for key, value in asdict(plan).items() if key not in _RUN_SETTINGS}


@dataclass
class Drawing:
    """What to draw for every X-ray.

    plan: its "auto"s are settled at the first X-ray. num_samples: CTs per X-ray, of seeds seed, seed + 1, ...
    xray_fov_mm: side of the square X-ray in the patient where the file does not tell; None as in training.
    tile: latent voxels of the tiles that are decoded, or "auto".
    team: processes that share each volume's windows and tiles.
    views: further X-rays by their names, of `files.views_of`.
    """

    model: CTSampler
    place: Placement
    plan: SamplingPlan
    seed: int
    num_samples: int = 1
    xray_fov_mm: float | None = None
    tile: int | str = AUTO
    team: Team = Team()
    views: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_whole("num_samples", self.num_samples)
        if self.tile != AUTO:
            check_whole("decode_tile", self.tile, " (latent voxels)")

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.num_samples)

    def volumes(self, image: Path) -> Iterator[np.ndarray]:
        """An X-ray's CTs, int16 HU (D, H, W), in memory; nothing is written."""
        xray = self._look(image)
        for seed in self.seeds:
            yield self.model.decode(self._latent(xray, seed, image.name), self.place.grid.shape, self.tile)

    def draw(self, image: Path, target: Path) -> None:
        """Draw what is not finished of an X-ray's CTs; of a team, only the first process writes.

        Raises:
            BadFileError: (a ValueError) an X-ray that is none. OSError: an output that cannot be written.
        """
        xray = self._look(image)
        common = self.facts(image, xray)
        drawn = 0
        paths = sample_paths(target, self.num_samples)
        for seed, path in zip(self.seeds, paths, strict=True):
            facts = common | {"seed": seed}
            if self.team.agree(is_finished(path, facts)):
                log.info("%s is finished, skipped", path)
                continue
            self._draw_one(path, xray, facts, image.name)
            drawn += 1
        if self.num_samples > 1 and self.team.rank == 0:
            facts = common | {"seeds": list(self.seeds)}
            means = zip(statistic_paths(target), ("mean", "std"), strict=True)
            if drawn or not all(is_finished(path, {**facts, "statistic": name}) for path, name in means):
                write_statistics(paths, target, self.place.grid.shape, facts, self.run_facts())
                log.info("mean and standard deviation of %d CTs beside %s", len(paths), target)

    def facts(self, image: Path, xray: XrayInput) -> dict[str, Any]:
        """All that a CT follows from, but its seed. Says nothing that could name the patient."""
        views = {
            name: {"sha256": file_hash(path), "camera": xray.views[name].camera.tolist()}
            for name, path in views_of(image, self.views).items()
        }
        return (
            ({"views": views} if views else {})
            | {
                "xray_sha256": file_hash(image),
                "xray_camera": xray.camera.tolist(),
                "plan": plan_facts(self.plan),
                "shape": list(self.place.grid.shape),
                "spacing": list(self.place.grid.spacing),
                "affine": self.place.affine.tolist(),
                "axes": self.place.axes,
                "hu_window": list(self.model.hu_window),
                **self.model.hashes,
            }
            | ({"statistic": "expected CT, of one evaluation"} if self.plan.sampler == MEAN else {})
        )

    def run_facts(self) -> dict[str, Any]:
        """How CTs are made; none of it changes them."""
        generator = self.model.generator
        return {
            "versions": versions(),
            "device": str(generator.device),
            "processes": self.team.size,
            "evaluations": generator.evaluations(self.place.grid, self.plan),
        } | {key: getattr(self.plan, key) for key in _RUN_SETTINGS}

    def _look(self, image: Path) -> XrayInput:
        xray = self.model.load_xray(image, self.xray_fov_mm, views_of(image, self.views))
        self.plan = self.model.generator.settle(self.plan, xray, self.place.grid, self.team)
        return xray

    def _latent(self, xray: XrayInput, seed: int, name: str) -> Tensor:
        generator, grid = self.model.generator, self.place.grid
        total = generator.evaluations(grid, self.plan, self.team)
        hidden = rank_and_world()[0] > 0 or not sys.stderr.isatty()
        with tqdm(total=total, desc=name, unit="eval", disable=hidden) as bar:
            return generator.latent(xray, grid, self.plan, seed, bar.update, self.team)

    def _draw_one(self, path: Path, xray: XrayInput, facts: Mapping[str, Any], name: str) -> None:
        started, grid = time.monotonic(), self.place.grid
        latent = self._latent(xray, facts["seed"], name)
        slabs = self.model.slabs(latent, grid.shape, self.tile, self.team)
        if self.team.rank > 0:
            deque(slabs, maxlen=0)  # they go to the first process
            return
        with VoxelFile(grid.shape, path.parent) as voxels:
            with naming_disk(path, grid.shape):
                for first, slab in slabs:
                    voxels.write(first, slab)
            run = self.run_facts() | {"seconds": round(time.monotonic() - started, 2)}
            write_sample(path, voxels.read, self.place, xray.xray[0].numpy(), facts, run)
        log.info("%s → %s (%.1f s)", name, path, time.monotonic() - started)
