"""benchmarks.conditioning: every row is a demo that exists, all train for the same time."""

import pytest

from benchmarks import conditioning
from benchmarks.demo_model import stages


@pytest.mark.parametrize("block", conditioning.BLOCKS)
@pytest.mark.parametrize("row", conditioning.ROWS)
def test_a_row_is_the_demo_with_its_own_settings_and_folder(row, block, tmp_path):
    made = stages(conditioning.settings_of(row, block, tmp_path, ["seed=5"]))
    folder = conditioning.folder_of(row, tmp_path)
    plain = stages([f"experiment={conditioning.BLOCKS[block]}", f"dir={folder}", f"variant={row}_s42"])
    assert all(str(folder) in str(stage.product) for stage in made.values())
    assert "seed=5" in made["make_phantom_data.py"].command
    changed = {name for name in made if set(made[name].command) - set(plain[name].command) - {"seed=5"}}
    expected = {"lifted": set(), "declared": {"prepare_data.py"}}
    expected["augmented"] = {"encode_latents.py", "train_ddpm_patches_4gpu.py"}
    expected["lateral"] = {"make_phantom_data.py", *expected["augmented"]}
    assert changed == expected.get(row, {"train_ddpm_patches_4gpu.py"})


def test_rows_of_the_same_data_share_it_and_no_other_row_does(tmp_path):
    made = {row: stages(conditioning.settings_of(row, "film", tmp_path, [])) for row in conditioning.ROWS}
    before = ("make_phantom_data.py", "prepare_data.py", "train_vqgan_patches_4gpu.py", "encode_latents.py")
    rows_of = {}
    for row, found in made.items():
        rows_of.setdefault(found["prepare_data.py"].product, []).append(row)
    for rows in rows_of.values():
        assert len({str([made[row][script].command for script in before]) for row in rows}) == 1
    assert sorted(map(len, rows_of.values())) == [1, 1, 1, 3]
    trained = {found["train_ddpm_patches_4gpu.py"].product for found in made.values()}
    assert len(trained) == len(conditioning.ROWS)


def test_a_faster_row_takes_more_steps_in_the_same_time(tmp_path, monkeypatch):
    asked = []

    def run(script, settings):
        asked.append(settings)
        assert "resume=auto" not in settings
        (steps,) = (int(word.split("=")[1]) for word in settings if word.startswith("model.max_steps="))
        return 20 + 0.25 * steps, 1.0  # a start, then a speed

    monkeypatch.setattr(conditioning, "run", run)
    settings = ["train.py", "run_dir=/there", "resume=auto"][1:]
    assert conditioning.steps_for(2, settings, tmp_path) == 480
    assert conditioning.steps_for(4, settings, tmp_path) == 960
    assert len(asked) == 2  # the speed is measured once
    assert all("run_dir=/there" not in words for words in asked)


def test_the_table_holds_the_columns_of_all_rows():
    rows = {"a": {"steps": 3, "psnr_right": 1.23456, "right_minus_wrong_95": [0.1, 0.25]}}
    rows["b"] = {"steps": 4, "psnr_right": 2.0, "right_minus_wrong_95": None, "only": 1}
    assert conditioning.table(rows).splitlines() == [
        "|  | steps | psnr_right | right_minus_wrong_95 |",
        "| --- | --- | --- | --- |",
        "| a | 3 | 1.235 | 0.100 to 0.250 |",
        "| b | 4 | 2.000 | None |",
    ]


def metrics(psnr):
    means = {"psnr_right": sum(psnr) / len(psnr), "ssim_right": psnr[0] / 100, "psnr_right_95": [1.0, 2.0]}
    cases = [{"psnr": p, "psnr_wrong": p - 1, "lung_ml": p, "lung_ml_real": p} for p in psnr]
    return {"steps": 9, "summary": means, "scores": dict.fromkeys("abcdef", 0), "cases": cases}


def test_rows_are_compared_with_the_reference_patient_by_patient(tmp_path):
    found = conditioning.summaries({"lifted": [metrics([10, 20] * 3)], "pooled": [metrics([9, 18] * 3)]})
    assert found["lifted"]["minus_lifted"] == 0
    assert found["pooled"]["minus_lifted"] == pytest.approx(-1.5)
    low, high = found["pooled"]["minus_lifted_95"]
    assert -2 <= low < -1.5 < high <= -1
    conditioning.write_all(tmp_path, found)
    assert f"| pooled | 1 | 9 | 13.500 | -1.500 | {low:.3f} to {high:.3f} |" in (tmp_path / "table.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "results.json", "plot.svg"}


def test_several_seeds_are_one_row_whose_patients_are_redrawn_with_all_of_them():
    twice = {"lifted": [metrics([10, 20] * 3), metrics([12, 22] * 3)], "pooled": [metrics([9, 19] * 3)]}
    found = conditioning.summaries(twice)["lifted"]
    assert found["seeds"] == 2
    assert found["psnr_right"] == pytest.approx(16)
    assert found["ssim_right"] == pytest.approx(0.11)
    assert found["right_minus_wrong_95"] == [1, 1]
    assert found["minus_lifted"] == 0
    once, both = (
        conditioning.minus("other", parts, twice["pooled"]) for parts in (twice["lifted"][:1], twice["lifted"])
    )
    assert (once["minus_other"], both["minus_other"]) == (1, 2)
    assert both["minus_other_95"] == [2, 2]  # seeds differ, patients do not
