"""The command lines of the benchmarks that take no Hydra settings."""

import shlex
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from benchmarks import phantom_figure, real_data
from benchmarks.options import composed, own

CONFIGS = {
    "prepare_data.py": "prepare_data",
    "train_vqgan_patches_4gpu.py": "train_vqgan",
    "encode_latents.py": "encode_latents",
    "train_ddpm_patches_4gpu.py": "train_ddpm",
    "sample_ddpm_patches.py": "sample_ddpm",
}


def test_options_not_given_have_their_defaults():
    assert own(["size=8"], {"out": "here", "size": "4"}) == {"out": "here", "size": "8"}


@pytest.mark.parametrize("benchmark", [phantom_figure, real_data], ids=lambda module: module.__name__)
@pytest.mark.parametrize("word", ["--help", "figure.png", "outt=here"])
def test_an_unknown_option_is_refused_with_those_there_are(benchmark, word, elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", word])
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert repr(word) in said
    assert "out=" in said
    assert list(Path().iterdir()) == []


def test_a_folder_with_spaces_stays_one_word(tmp_path):
    target = tmp_path / "two words"
    real_data.timed("x", shlex.join(["-c", "import sys; open(sys.argv[1], 'w')", str(target)]))
    assert target.is_file()


def test_the_commands_on_real_data_name_settings_that_their_scripts_have():
    commands = real_data.commands(Path("/some folder/real"))
    for script, *settings in commands.values():
        cfg = composed(CONFIGS[script], settings)
        OmegaConf.resolve(cfg)
        if script != "sample_ddpm_patches.py":
            assert cfg.dataset.root == "/some folder/real/data"
    assert len(commands) == len(CONFIGS)
