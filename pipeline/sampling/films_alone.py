"""X-rays without CTs: what is drawn from them must show them."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from common.atomic import write_text
from common.errors import UserError, of_all
from common.notice import NOTICE
from common.planes import planes_at
from common.voxel_file import box_of
from dataset.scans.volume_io import write_ct
from dataset.scans.xray_files import name_of
from dataset.scans.xray_io import read_xray
from ddpm.plan import SamplingPlan, XrayInput
from evaluation.controls import finite, wrong_xrays
from evaluation.pictures import preview
from evaluation.report.page import write_report
from evaluation.report.volumes import choose
from evaluation.summary import Findings
from pipeline.ranks import joined
from pipeline.run_record import record_run
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.sampling.drawing import plan_facts
from pipeline.sampling.evaluated_cases import Compared
from pipeline.sampling.files import file_hash, jobs, prepare_folder
from pipeline.sampling.progress import compare_all
from pipeline.sampling.several import draw_several
from pipeline.sampling.shown_films import ShownFilms
from pipeline.settings import plain
from pipeline.versions import versions

log = logging.getLogger(__name__)
_NUMBERS = ("projection", "projection_mae", "rank")
_WISHES = ("presets", "masks", "copies", "subgroups")  # which real CTs alone can fulfil
_MEANINGLESS = (*_WISHES, "extractors", "split", "anatomy", "common_grid")  # settings, where there are no real CTs
MOST_OTHERS = 50  # X-rays of other patients, among which a drawn CT's own is to be recognised


@dataclass(frozen=True)
class Film:
    """An X-ray's file, of one patient each. xray_synthetic: it is a projection of a CT."""

    name: str
    path: Path
    xray_synthetic: bool


def films_in(folder: Path, model: CTSampler, run_dir: Path, num_cases: int | None = None) -> list[Film]:
    """Of a folder all X-rays, or the first ones.

    UserError where there are none to compare: fewer than two; or where pictures of them would overwrite them; or names
    all that cannot be read.
    """
    images = [image for image, _ in jobs([folder], run_dir)][:num_cases]
    if len(images) < 2:
        raise UserError(
            "xray_only=true recognises X-rays among others, so it needs a folder with two or more, and as many of"
            f" num_cases; {folder} gives {len(images)}"
        )

    def looked_at(image: Path) -> Film:
        model.load_xray(image)  # which refuses what could not be drawn from, hours later
        return Film(name_of(image), image, read_xray(image, model.film).synthetic)

    return of_all(images, looked_at)


@dataclass(frozen=True)
class FilmsAlone:
    """How X-rays are drawn, on the grid of the training's median CT, and compared with what is drawn.

    num_samples: CTs per X-ray, of seeds seed, seed + 1, ..., and averaged. wrong: others' X-rays per X-ray; it is to be
    recognised among `MOST_OTHERS`. controls: also draw from others' X-rays, and from none. folder: gets pictures,
    volumes/ and, until the report is written, unfinished/.
    """

    model: CTSampler
    plan: SamplingPlan
    seed: int
    num_samples: int
    films: Sequence[Film]
    wrong: int
    controls: bool
    folder: Path

    @property
    def unfinished(self) -> Path:
        return self.folder / "unfinished"

    def compare(self, film: Film) -> None:
        """Draw from an X-ray, from others' and from none, and write what each shows of it."""
        place, look = self.model.placement(), self._look(film)
        drawn = self._draw(look, self.plan)
        write_ct(self._volume(film), drawn, place.affine, place.axes, description=NOTICE)
        shape = place.grid.shape
        preview(look.xray[0].numpy(), planes_at(box_of(drawn), shape), shape, place.grid.spacing, self._picture(film))
        volumes: list[dict[str, Any]] = [{"of": "right", "xray": film.name} | self._shown(film, drawn)]
        volumes += self._controls(film, look)
        numbers: dict[str, float] = {}
        for volume in volumes:  # of several wrong X-rays the first
            numbers = {f"{key}_{volume['of']}": volume[key] for key in _NUMBERS if key in volume} | numbers
        write_text(self._record(film), json.dumps({"facts": self._facts(film), "numbers": numbers, "volumes": volumes}))

    def compared(self, film: Film) -> Compared | None:
        """What `compare` found, if it has been called with these settings and its files are still there."""
        try:
            about = json.loads(self._record(film).read_text(encoding="utf-8"))
            whole = self._volume(film).is_file() and self._picture(film).is_file()
            if not whole or about["facts"] != json.loads(json.dumps(self._facts(film))):
                return None
            return Compared(film.name, film.name, about["numbers"], about["volumes"])
        except (OSError, ValueError, KeyError):
            return None

    def found(self, film: Film) -> Compared:
        """The same, of what any process has done."""
        if (found := self.compared(film)) is None:
            raise UserError(
                f"{film.name} was evaluated by another process, but its files are not in {self.folder};"
                " run_dir must be a folder that all processes share"
            )
        return found

    def _controls(self, film: Film, look: XrayInput) -> Iterator[dict[str, Any]]:
        if not self.controls:
            return
        for other in self._among(film, self.wrong):
            yield {"of": "wrong", "xray": other.name} | self._shown(film, self._draw(self._look(other), self.plan))
        if self.model.generator.denoiser.knows_no_xray:
            unseen = self._draw(replace(look, dropped=True), replace(self.plan, guidance=1.0))
            yield {"of": "null"} | self._shown(film, unseen)

    def _draw(self, look: XrayInput, plan: SamplingPlan) -> np.ndarray:
        grid = self.model.placement().grid
        plan = self.model.generator.settle(plan, look, grid)
        seeds = range(self.seed, self.seed + self.num_samples)
        return draw_several(lambda seed: self.model.draw(look, grid, plan, seed), seeds).mean

    def _shown(self, film: Film, hu: np.ndarray) -> dict[str, float]:
        return self._films.compare(hu, self.model.placement().grid.spacing, film, self._among(film, MOST_OTHERS))

    def _look(self, film: Film) -> XrayInput:
        return self.model.load_xray(film.path)

    @cached_property
    def _films(self) -> ShownFilms:
        return ShownFilms(self._look)

    def _among(self, film: Film, count: int) -> list[Film]:
        ring = wrong_xrays([other.name for other in self.films], count, self.seed)
        return [self.films[i] for i in ring[self.films.index(film)]]

    @cached_property
    def _hashes(self) -> Mapping[str, str]:
        return {film.name: file_hash(film.path) for film in self.films}

    @cached_property
    def _made_with(self) -> dict[str, str]:
        return versions()

    def _facts(self, film: Film) -> dict[str, Any]:
        """All that the numbers follow from."""
        return {
            "xrays": [self._hashes[other.name] for other in (film, *self._among(film, MOST_OTHERS))],
            "wrong": [self._hashes[other.name] for other in self._among(film, self.wrong)],
            "synthetic": film.xray_synthetic,
            "model": self.model.hashes | {"film": asdict(self.model.film)},
            "ranges": self.model.description.xray_ranges,
            "plan": plan_facts(self.plan) | {"bf16": self.model.generator.in_bf16(self.plan)},
            "seeds": [self.seed, self.num_samples],
            "controls": self.controls,
            "grid": asdict(self.model.placement().grid),
            "versions": self._made_with,
        }

    def _volume(self, film: Film) -> Path:
        return self.folder / "volumes" / f"{film.name}.nii.gz"

    def _picture(self, film: Film) -> Path:
        return self.folder / f"{film.name}.png"

    def _record(self, film: Film) -> Path:
        return self.unfinished / f"{film.name}.json"


def _check_needs(cfg: DictConfig) -> None:
    """UserError where something was asked for that needs real CTs."""
    asked = [name for name in _WISHES if plain(cfg[name])]
    asked += [f"extractors.{name}" for name, given in plain(cfg.extractors).items() if given]
    if asked:
        raise UserError(
            f"xray_only=true compares with no real CTs, which {', '.join(asked)} would need; leave that out"
        )


def evaluate_films(cfg: DictConfig, plan: SamplingPlan) -> None:
    """The X-rays of a folder, which need no CTs: draw, compare, write a report."""
    _check_needs(cfg)
    model, folder = CTSampler(cfg.ckpt, cfg.vqgan_ckpt, cfg.averaged, cfg.device, cfg.xray_weights), Path(cfg.run_dir)
    films = films_in(Path(cfg.dataset.root), model, folder, cfg.num_cases)
    prepare_folder(folder / "volumes", model.placement().grid.shape, len(films))
    alone = FilmsAlone(model, plan, cfg.seed, cfg.num_samples, films, cfg.wrong_xrays, cfg.controls, folder)
    with joined(model.generator.device, model.hashes) as team:
        if team.rank == 0:
            record_run(cfg, folder)
        compare_all(alone, films, "evaluating", "X-ray", team)
    if team.rank > 0:
        return
    compared = [alone.found(film) for film in films]
    numbers, names = [one.numbers for one in compared], [one.name for one in compared]
    findings = Findings.of([one.volumes for one in compared], numbers, names, cfg.seed)
    details = {
        "verdict": findings.verdict,
        "summary": findings.summary(),
        "controls": asdict(findings),
        "settings": {name: value for name, value in plain(cfg).items() if name not in _MEANINGLESS}
        | {"grid": "median", "denoiser hash": model.hashes["denoiser_hash"]},
        "cases": numbers,
        "scores": {one.name: one.volumes for one in compared},
    }
    write_text(folder / "metrics.json", json.dumps(finite(details), indent=1, allow_nan=False))
    choose(folder, ())  # of an earlier evaluation in this folder the viewer would show real CTs
    report = write_report(folder)
    shutil.rmtree(alone.unfinished)
    for sentence in findings.verdict:
        log.info(sentence)
    log.info("report: %s", report)
