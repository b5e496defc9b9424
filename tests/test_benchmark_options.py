"""The command lines of benchmarks: their own options, and the overrides of the config that they measure."""

import json
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from benchmarks import measure, phantom_figure, real_data, registration
from benchmarks.command import benchmark
from pipeline.cli import composed

CONFIGS = {
    "prepare_data.py": "prepare_data",
    "train_vqgan_patches_4gpu.py": "train_vqgan",
    "encode_latents.py": "encode_latents",
    "train_ddpm_patches_4gpu.py": "train_ddpm",
    "sample_ddpm_patches.py": "sample_ddpm",
}


@benchmark("train_ddpm")
def main(overrides: list[str], steps: int = 1, rates: tuple[float, ...] = (2.0,), device: str = "cpu") -> dict:
    dim = composed("train_ddpm", ["dataset.root=.", *overrides]).model.dim
    return {"steps": steps, "rates": list(rates), "device": device, "dim": dim}


@pytest.fixture
def start(monkeypatch):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["benchmark", *words])
        main()

    return call


def test_options_stand_beside_overrides_and_have_defaults_and_kinds(start, capsys):
    start("rates=1e-3,4", "model.dim=8", "steps=3")
    assert json.loads(capsys.readouterr().out) == {"steps": 3, "rates": [0.001, 4.0], "device": "cpu", "dim": 8}


@pytest.mark.parametrize("word", ["steps=many", "rates=1,x", "steps", "batch_size=3", "model.dim"])
def test_a_word_that_cannot_be_is_one_message(start, word, capsys):
    with pytest.raises(SystemExit) as stop:
        start(word)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("\nerror: ")
    assert word.split("=")[0] in said


@pytest.mark.parametrize(
    ("benchmark", "known"), [(phantom_figure, "out="), (real_data, "out="), (registration, "phantoms=")]
)
@pytest.mark.parametrize("word", ["--help", "figure.png", "outt=here"])
def test_an_unknown_option_is_refused_with_those_there_are(benchmark, known, word, elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", word])
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert repr(word) in said
    assert known in said
    assert list(Path().iterdir()) == []


def test_a_folder_with_spaces_stays_one_word(tmp_path):
    target = tmp_path / "two words"
    script = tmp_path / "write a file.py"
    script.write_text("import sys; open(sys.argv[1], 'w')")
    seconds, _ = measure.run(str(script), [str(target)])
    assert target.is_file()
    assert seconds > 0


def test_a_command_that_fails_ends_the_benchmark_with_its_status(tmp_path):
    (tmp_path / "fails.py").write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit) as stop:
        measure.run(str(tmp_path / "fails.py"), [])
    assert stop.value.code == 3


def test_the_commands_on_real_data_name_settings_that_their_scripts_have():
    commands = real_data.commands(Path("/some folder/real"))
    for script, *settings in commands.values():
        cfg = composed(CONFIGS[script], settings)
        OmegaConf.resolve(cfg)
        if script != "sample_ddpm_patches.py":
            assert cfg.dataset.root == "/some folder/real/data"
    assert len(commands) == len(CONFIGS)
