"""benchmarks.objectives: rows that differ as they say, judged by what is drawn, done once."""

import json
import math
import sys

import numpy as np
import pytest

from benchmarks import objectives
from benchmarks.decoded import Judge, histogram_distance, spread
from benchmarks.scatter import scatter
from dataset.store.store import VolumeStore
from ddpm.plan import Grid, SamplingPlan
from pipeline.cli import composed
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.settings import plain


def test_every_row_is_a_training_of_its_own_on_shared_data(tmp_path):
    laboratory = objectives.Laboratory(tmp_path, ["experiment=demo", "vqgan.model.embedding_dim=64"], "cpu")
    last = objectives.LAST
    made = {row: composed("train_ddpm", [*laboratory.training(row, 7), *last.get(row, ())]) for row in objectives.ROWS}
    trained = [json.dumps([plain(cfg.module.diffusion), plain(cfg.model)]) for cfg in made.values()]
    assert len(set(trained)) == len(made)
    for cfg in made.values():
        assert (cfg.seed, cfg.model.diffusion_num_channels, cfg.trainer.accelerator) == (7, 64, "cpu")
        assert cfg.dataset.store == str(tmp_path / "data" / "store")
    assert len({cfg.run_dir for cfg in made.values()}) == len(made)


def test_a_row_of_two_parts_goes_on_from_the_weights_of_the_first(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(objectives.training_run, "run", lambda cfg, build: done.append(cfg))
    monkeypatch.setattr(objectives, "steps_per_second", lambda run_dir, batch_size: 1.0)
    laboratory = objectives.Laboratory(tmp_path, ["experiment=demo"], "cpu")
    assert laboratory.train("whole", 7, 100)["steps"] == 100
    first, last = done
    assert (first.model.max_steps, last.model.max_steps) == (75, 25)
    assert (first.model.use_patches, last.model.use_patches) == (True, False)
    assert last.init_from == f"{first.checkpoint_dir}/last.ckpt"
    assert str(tmp_path / "ddpm_whole_s7") in last.checkpoint_dir != first.checkpoint_dir
    assert last.dataset.latents_dir != first.dataset.latents_dir


def test_draws_that_scatter_as_far_as_they_err_are_calibrated():
    rng = np.random.default_rng(0)
    truth, draws = rng.normal(size=(40, 40, 40)), rng.normal(size=(4, 40, 40, 40))
    assert spread(draws, truth) == pytest.approx(1, abs=0.02)
    assert spread(draws / 2, truth) < 0.6
    assert spread(draws[:1], truth) is None


def test_histograms_are_as_far_apart_as_voxels_would_have_to_move():
    volume = np.arange(24.0).reshape(2, 3, 4)
    assert histogram_distance(volume[::-1], volume) == 0
    assert histogram_distance(volume + 5, volume) == pytest.approx(5)


def test_patients_are_drawn_with_the_right_another_and_no_xray(workshop, tmp_path):
    model, store = CTSampler(workshop.ddpm_ckpt, device="cpu"), VolumeStore(workshop.store)
    judge = Judge(model, store, SamplingPlan(2, mode="fused", window_batch=1), 2, 16, tmp_path)
    held_out = store.split("train")[:2]
    judge.store.split = lambda name: held_out  # the workshop's validation has one patient, who has nobody beside him
    draw, seen = model.draw, []

    def noted(xray, grid, plan, seed):
        seen.append((float(xray.xray.sum()), xray.dropped, plan.sampler, seed))
        return draw(xray, grid, plan, seed)

    model.draw = noted
    cases = judge.cases(2, 0)
    (own,), (other,) = ({one[0] for one in part if not one[1]} for part in (seen[:2], seen[2:4]))
    assert own != other
    assert {(own, "mean", 0), (other, "ddim", 1)} <= {(image, sampler, seed) for image, _, sampler, seed in seen}
    assert [case["patient"] for case in cases] == [case.patient_id for case in held_out]
    for case, stored in zip(cases, held_out, strict=True):
        assert {
            "psnr_wrong",
            "psnr_single",
            "psnr_expected",
            "psnr_whole",
            "psnr_mean_volume",
            "seam_index",
        } <= case.keys()
        assert case["evaluations"] % (2 * 2) == 0
        assert case["spread"] > 0
        real = np.clip(store.read_hu(stored, (0, 0, 0), stored.shape), *model.hu_window).astype(float)
        hu = draw(judge._look(stored), Grid(stored.shape, stored.spacing), judge.plan, 0)
        assert case["psnr_single"] == pytest.approx(10 * math.log10(2000**2 / np.square(hu - real).mean()), abs=1e-3)


@pytest.fixture
def start(tmp_path, monkeypatch, capsys):
    """Runs the command with trainings and drawings that only note what is asked of them."""
    trained = []

    def train(self, row, seed, steps):
        trained.append((row, seed, steps))
        return {"steps": steps, "seconds": 1.0, "steps_per_s": 2.0}

    def judge(self, row, seed, cases, draws):
        better = 1 if row == "x0" else 0
        return [
            dict.fromkeys(objectives.MEANS, 20.0 + better + seed + i)
            | {"patient": f"p{i}", "lung_ml": float(i), "lung_ml_real": float(i), "spread": None}
            for i in range(cases)
        ]

    monkeypatch.setattr(objectives.Laboratory, "prepare", lambda self, rows: None)
    monkeypatch.setattr(objectives.Laboratory, "train", train)
    monkeypatch.setattr(objectives.Laboratory, "judge", judge)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["objectives", f"out={tmp_path}", "cases=6", "steps_per_row=3", *words])
        objectives.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call, trained


def test_rows_are_done_once_and_compared_with_v_patient_by_patient(start, tmp_path):
    call, trained = start
    call("rows=v", "seeds=1,2")
    results = call("rows=v,x0", "seeds=1,2")
    assert trained == [("v", 1, 3), ("v", 2, 3), ("x0", 1, 3), ("x0", 2, 3)]
    assert results["x0"]["psnr_right"] == pytest.approx(25)
    assert results["x0"]["psnr_right_by_seed"] == [24.5, 25.5]
    assert (results["x0"]["minus_v"], results["x0"]["minus_v_95"]) == (1, [1, 1])
    assert results["v"]["psnr_right_95"][0] < 24 < results["v"]["psnr_right_95"][1]
    folder = tmp_path / "clean_8ch"
    assert (folder / "table.md").read_text().count("\n") == 2 + 2
    assert json.loads((folder / "results.json").read_text()) == results
    assert ">x0</text>" in (folder / "plot.svg").read_text()
    call("rows=x0", "seeds=1", "draws=2")
    assert trained[4:] == [("x0", 1, 3)]  # asked for otherwise


def test_a_row_that_is_none_is_refused(start, capsys):
    with pytest.raises(SystemExit):
        start[0]("rows=v-huge")
    assert "v-huge" in capsys.readouterr().err


def test_one_dot_has_its_place():
    assert ">a &lt; b</text>" in scatter({"a < b": (1.0, 2.0)}, "x", "y")
