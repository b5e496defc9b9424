"""evaluate_ddpm_patches.py xray_only=true: X-rays without CTs, and whether what is drawn shows them."""

import json
from pathlib import Path

import numpy as np
import pytest

import evaluate_ddpm_patches
from dataset.phantom.thorax import make_phantom
from dataset.scans.drr import frontal_drr, to_intensity
from dataset.scans.xray_io import write_xray
from evaluation.common_grid import CommonGrid, to_grid
from evaluation.report.volumes import choose, embed
from pipeline.sampling.ct_sampler import CTSampler
from tests.tiny import run

SPACING, WINDOW, NAMES = (10.0, 10.0, 10.0), (-1000.0, 1000.0), [f"p{i}" for i in range(6)]


@pytest.fixture(scope="module")
def chests():
    return {name: make_phantom(seed, (32, 26, 30), SPACING).hu for seed, name in enumerate(NAMES)}


@pytest.fixture
def evaluate(workshop, chests, elsewhere, monkeypatch):
    """Runs it on projections of the chests, drawing by `draw(CT of the X-ray)`, and returns its metrics."""
    for name, hu in chests.items():
        integrals, camera = frontal_drr(hu, SPACING, 64)
        write_xray(elsewhere / "films" / f"{name}.png", to_intensity(integrals), camera, synthetic=True)

    def evaluate(draw, *further):
        seen = {}
        load = CTSampler.load_xray

        def loaded(self, path, *arguments):
            look = load(self, path, *arguments)
            seen[look.xray.numpy().tobytes()] = chests[Path(path).stem]
            return look

        def drawn(self, xray, grid, plan, seed):
            own = draw(seen[xray.xray.numpy().tobytes()], xray.dropped)
            return to_grid(own, SPACING, CommonGrid(grid.shape, grid.spacing), WINDOW).round().astype(np.int16)

        monkeypatch.setattr(CTSampler, "load_xray", loaded)
        monkeypatch.setattr(CTSampler, "draw", drawn)
        settings = ["dataset.root=films", f"ckpt={workshop.ddpm_ckpt}", "xray_only=true", "run_dir=out", "device=cpu"]
        run(evaluate_ddpm_patches, *settings, *further)
        return json.loads(Path("out/metrics.json").read_text())

    return evaluate


def test_cts_that_show_their_x_rays_are_told_from_one_for_all(chests, evaluate):
    mean = np.mean(list(chests.values()), axis=0)
    found = evaluate(lambda own, dropped: mean if dropped else own)
    summary = found["summary"]
    assert summary["own_xray_found_right"] == 1
    assert summary["projection_right"] > 0.8 > summary["projection_wrong"]
    assert summary["projection_right_minus_wrong_95"][0] > 0
    assert summary["projection_mae_right"] < 0.5 * summary["projection_mae_wrong"]
    assert found["verdict"][0].startswith("What is drawn shows its X-ray: projected")
    assert "100% of the drawn CTs" in found["verdict"][1]
    assert sorted(path.name for path in Path("out/volumes").iterdir()) == [f"{name}.nii.gz" for name in NAMES]
    assert all(Path("out", f"{name}.png").is_file() for name in NAMES)
    assert "What is drawn shows its X-ray" in Path("out/report.html").read_text()

    same = evaluate(lambda own, dropped: mean)
    assert same["summary"]["projection_right_minus_wrong"] == 0
    assert same["verdict"][0].startswith("What is drawn does not show its X-ray")


def test_an_interrupted_one_goes_on(evaluate):
    drawn = []

    def draw(own, dropped):
        drawn.append(own)
        if len(drawn) == 8:
            raise RuntimeError("the power is gone")
        return own

    with pytest.raises(RuntimeError):
        evaluate(draw)
    left = len(NAMES) - len(list(Path("out/unfinished").glob("*.json")))
    assert 0 < left < len(NAMES)
    drawn[:] = [None] * 10
    assert list(evaluate(draw)["scores"]) == NAMES
    assert len(drawn) - 10 in (2 * left, 3 * left)  # also without an X-ray, if the model knows how
    assert not Path("out/unfinished").exists()


def test_of_the_first_ones_alone_and_without_controls(evaluate):
    drawn = []
    found = evaluate(lambda own, dropped: drawn.append(own) or own, "num_cases=3", "controls=false")
    assert list(found["scores"]) == NAMES[:3]
    assert len(drawn) == 3
    assert found["summary"]["own_xray_found_right"] == 1
    assert not [name for name in found["summary"] if "wrong" in name or "null" in name]


def test_an_earlier_evaluation_leaves_nothing_in_its_report(evaluate):
    choose(Path("out"), ["earlier_one"])
    embed(Path("out"), "earlier_one", [np.zeros((4, 4, 4), np.int16)] * 2, np.eye(4), 10**6)
    found = evaluate(lambda own, dropped: own)
    assert "earlier_one" not in Path("out/report.html").read_text()
    assert not Path("out/report/earlier_one.js").exists()
    assert "split" not in found["settings"]
    assert found["settings"]["grid"] == "median"


@pytest.mark.parametrize(
    "setting", ["presets=hu2000", "masks=m", "copies=true", "subgroups=sex", "extractors.random=true"]
)
def test_what_needs_real_cts_is_refused(setting, workshop, elsewhere, refused):
    settings = ["dataset.root=films", f"ckpt={workshop.ddpm_ckpt}", "xray_only=true", "device=cpu"]
    message = refused(evaluate_ddpm_patches, *settings, setting)
    assert f"no real CTs, which {setting.partition('=')[0]} would need" in message


def test_all_films_that_cannot_be_drawn_from_are_named_before_one_is_drawn(evaluate, capsys):
    for name in ("p1", "p4"):
        Path(f"films/{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    drawn = []
    with pytest.raises(SystemExit):
        evaluate(lambda own, dropped: drawn.append(own) or own)
    message = capsys.readouterr().err
    assert "2 files cannot be used" in message
    assert all(f"films/{name}.png: " in message for name in ("p1", "p4"))
    assert not drawn


def test_one_x_ray_is_refused(workshop, chests, elsewhere, refused):
    write_xray(elsewhere / "film.png", np.linspace(0, 1, 64 * 64).reshape(64, 64), None, synthetic=False)
    (elsewhere / "films").mkdir()
    (elsewhere / "film.png").rename(elsewhere / "films" / "a.png")
    settings = ["dataset.root=films", f"ckpt={workshop.ddpm_ckpt}", "xray_only=true", "device=cpu"]
    assert "two or more" in refused(evaluate_ddpm_patches, *settings)
