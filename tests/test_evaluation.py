"""evaluate_ddpm_patches.py: whose X-rays, what is scored, what is kept, and what is refused."""

import base64
import csv
import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import evaluate_ddpm_patches
import sample_ddpm_patches
from dataset.scans.volume_io import read_ct
from dataset.scans.xray_io import read_xray, write_xray
from evaluation.metrics import psnr
from evaluation.report.page import write_report
from evaluation.report.volumes import embedded, full_size
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.sampling.evaluated_cases import Evaluation
from tests.tiny import run


@pytest.fixture
def evaluate(workshop, elsewhere):
    """Runs an evaluation of two training cases, with further settings, and returns its metrics."""

    def evaluate(*changes):
        settings = [workshop.data, f"ckpt={workshop.ddpm_ckpt}", "run_dir=out", "split=train", "num_cases=2"]
        run(evaluate_ddpm_patches, *settings, "steps=2", "device=cpu", *changes)
        return json.loads(Path("out/metrics.json").read_text())

    return evaluate


def write_external_data(root, workshop):
    """Two patients to test on, none to train on, with X-rays half as bright as those of the training."""
    root.mkdir()
    rows = []
    for name in ("phantom0000", "phantom0001"):
        source = workshop.root / name
        (root / f"{name}.nii.gz").symlink_to(source / f"{name}.nii.gz")
        film = read_xray(source / f"{name}_pa_drr.png")
        write_xray(root / f"{name}.png", 0.5 * film.image, film.camera, film.synthetic)
        rows.append({"patient_id": name, "ct": f"{name}.nii.gz", "xray": f"{name}.png", "split": "test"})
    with (root / "pairs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


@pytest.mark.parametrize("store", ["external/store", "null"])
def test_an_external_test_set_is_seen_as_sampling_sees_it_and_scored(store, workshop, evaluate):
    write_external_data(Path("external"), workshop)
    metrics = evaluate(
        "dataset.root=external", f"dataset.store={store}", "split=test", "num_cases=null", "dataset.prepare_workers=0"
    )
    for name in ("phantom0000", "phantom0001"):
        expected, _ = sample_ddpm_patches.sample(
            f"external/{name}.png", workshop.ddpm_ckpt, reference=f"external/{name}.nii.gz", steps=2
        )
        drawn = read_ct(f"out/volumes/{name}.nii.gz").hu
        assert np.abs(drawn.astype(int) - expected).max() <= 1
    summary = metrics["summary"]
    assert "psnr_mean_volume" not in summary  # no training cases here
    assert np.isfinite([summary["psnr_right"], summary["psnr_wrong"], summary["psnr_codec"]]).all()
    assert summary["right_minus_wrong_95"] is None  # of two cases


def test_metrics_are_valid_json_even_of_a_perfect_codec(workshop, evaluate, monkeypatch):
    monkeypatch.setattr(Evaluation, "_reconstruct", lambda self, case: self.store.read_hu(case, (0, 0, 0), case.shape))
    evaluate()
    metrics = json.loads(Path("out/metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert metrics["cases"][0]["psnr_codec"] is None
    summary = metrics["summary"]
    assert {summary[f"dice_{region}_codec"] for region in ("lung", "body", "bone")} == {1}
    assert summary["hd95_mm_body_codec"] == summary["hu_spread_lung_codec"] == 0
    for name in ("count", "length_mm", "volume_ml"):
        assert summary[f"vessel_{name}_codec"] == summary[f"vessel_{name}_real"]


def test_the_mean_of_several_samples_is_scored_and_written_beside_the_first(workshop, evaluate):
    metrics = evaluate("num_samples=3", "num_cases=1", "anatomy=false")
    assert sorted(path.name for path in Path("out/volumes").iterdir()) == [
        "phantom0000_mean.nii.gz",
        "phantom0000_s0.nii.gz",
    ]
    folder = workshop.root / "phantom0000"
    settings = {"reference": folder / "phantom0000.nii.gz", "steps": 2}
    model = CTSampler(workshop.ddpm_ckpt, device="cpu")
    draws = [sample_ddpm_patches.sample(workshop.xray, model, **settings, seed=42 + i)[0] for i in range(3)]
    first, mean = (read_ct(f"out/volumes/phantom0000_{end}.nii.gz").hu for end in ("s0", "mean"))
    assert np.abs(first.astype(int) - draws[0]).max() <= 1
    np.testing.assert_allclose(mean, np.mean(draws, axis=0), atol=1)
    real = read_ct(folder / "phantom0000.nii.gz").hu
    assert metrics["cases"][0]["psnr"] == pytest.approx(psnr(mean, real, model.hu_window), abs=1e-6)


def test_presets_add_the_scores_of_published_figures(evaluate):
    metrics = evaluate("presets=[ctpa700,x2ct_compat]", "num_cases=1")
    case, scores = metrics["cases"][0], metrics["scores"]["phantom0000"][0]["scores"]
    assert [one["preset"] for one in scores] == ["hu[-1000,1000]", "ctpa700", "x2ct_compat"]
    assert [one["psnr"] for one in scores] == [case[k] for k in ("psnr", "psnr ctpa700", "psnr x2ct_compat")]
    assert metrics["summary"]["ssim_right ctpa700"] == scores[1]["ssim"]
    assert (scores[2]["mode"], scores[2]["data_range"]) == ("slices", 4095)
    assert "hu_mae x2ct_compat" in Path("out/report.html").read_text()


def test_the_settings_reported_are_those_that_count(evaluate):
    settings = evaluate("num_cases=1", "dataset.hu_window=[-500,500]")["settings"]
    assert settings["hu_window"] == [-1000, 1000]
    assert {"root", "store"} <= set(settings["dataset"])
    assert not {"hu_window", "xray_fov_mm", "latents", "latents_dir"} & set(settings["dataset"])


@pytest.fixture
def drawn(monkeypatch):
    """Grids of the CTs that are drawn; Ctrl-C before number `drawn.fails_at`."""

    class Drawn(list):
        fails_at = None

    grids, draw = Drawn(), CTSampler.draw

    def counted(self, xray, grid, plan, seed, *rest):
        if len(grids) == grids.fails_at:
            raise KeyboardInterrupt
        grids.append(grid)
        return draw(self, xray, grid, plan, seed, *rest)

    monkeypatch.setattr(CTSampler, "draw", counted)
    return grids


PER_CASE = 2  # CTs: with the right X-ray and with a wrong one


def interrupt(drawn, evaluate, after, *settings):
    drawn.fails_at = after
    with pytest.raises(SystemExit) as ended:
        evaluate(*settings)
    assert ended.value.code == 130
    drawn.fails_at = None
    drawn.clear()


def test_an_interrupted_evaluation_goes_on_where_it_stopped(evaluate, drawn, caplog):
    whole = evaluate("num_cases=3")
    report = Path("out/report.html").read_text()
    assert not Path("out/unfinished").exists()
    drawn.clear()
    interrupt(drawn, evaluate, 2 * PER_CASE + 1, "num_cases=3")
    with caplog.at_level("INFO"):
        assert evaluate("num_cases=3") == whole
    assert len(drawn) == PER_CASE
    assert caplog.text.count("evaluated before the interruption") == 2
    assert Path("out/report.html").read_text() == report


def test_a_commit_made_meanwhile_costs_nothing(evaluate, drawn, monkeypatch):
    commits = iter(range(1000))
    monkeypatch.setattr("pipeline.sampling.evaluated_cases.versions", lambda: {"commit": str(next(commits))})
    assert len(evaluate()["cases"]) == 2


def test_a_finished_evaluation_is_done_anew(evaluate, drawn):
    evaluate()
    evaluate()
    assert len(drawn) == 4 * PER_CASE


@pytest.mark.parametrize(
    "change", ["steps=1", "seed=1", "averaged=false", "common_grid=20", "presets=ctpa700", "controls=false"]
)
def test_other_settings_are_not_taken_for_the_interrupted_ones(change, evaluate, drawn):
    interrupt(drawn, evaluate, PER_CASE)
    evaluate(change)
    assert len(drawn) == 2 * (1 if change == "controls=false" else PER_CASE)


def test_a_case_whose_files_are_damaged_or_gone_is_drawn_again(evaluate, drawn):
    interrupt(drawn, evaluate, 2 * PER_CASE, "num_cases=3")
    first, second = sorted(Path("out/unfinished").iterdir())
    first.write_bytes(first.read_bytes()[:100])
    Path(f"out/volumes/{second.stem}.nii.gz").unlink()
    evaluate("num_cases=3")
    assert len(drawn) == 3 * PER_CASE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("num_samples=0", ("num_samples", "whole number from 1", "0")),
        ("num_cases=0", ("num_cases", "0")),
        ("num_cases=few", ("num_cases", "'few'")),
        ("common_grid=0", ("common_grid", "0")),
        ("presets=[hu]", ("presets", "x2ct_compat", "'hu'")),
        ("steps=0", ("steps", "0")),
        ("split=test", ("split=test",)),
        ("dataset.root=/nowhere", ("prepare_data.py",)),
    ],
)
def test_an_evaluation_that_cannot_be(change, said, workshop, elsewhere, refused):
    message = refused(evaluate_ddpm_patches, f"ckpt={workshop.ddpm_ckpt}", workshop.data, change)
    assert all(words in message for words in said)
    assert not Path("outputs").exists()


def test_the_report_shows_real_beside_drawn_cts_and_can_be_written_again(workshop, evaluate):
    evaluate("num_cases=3", "anatomy=false")
    page = Path("out/report.html").read_text()
    assert json.loads(Path("out/report/cases.json").read_text()) == embedded(Path("out"))
    assert set(embedded(Path("out"))) == {"phantom0000", "phantom0001", "phantom0002"}
    for name, paths in full_size(Path("out")).items():
        real = nib.load(f"out/{paths['real']}")
        source = nib.load(workshop.root / name / f"{name}.nii.gz")
        np.testing.assert_allclose(real.affine, source.affine, atol=1e-3)
        np.testing.assert_array_equal(real.get_fdata(), np.clip(source.get_fdata(), -32768, 32767))
        assert nib.load(f"out/{paths['generated']}").shape == real.shape
        text = Path(f"out/report/{name}.js").read_text()
        small = json.loads(text.removeprefix(f'addVolumes("{name}", ').removesuffix(");\n"))
        for key in ("real", "generated"):
            image = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(small[key])))
            whole = read_ct(f"out/{paths[key]}")
            np.testing.assert_allclose(image.affine, whole.affine, atol=1e-3)
            assert np.abs(image.get_fdata().transpose(2, 1, 0) - np.clip(whole.hu, -1000, 1000)).max() <= 2
    write_report(Path("out"))
    assert Path("out/report.html").read_text() == page
