"""Settings that nobody meant: a message or a run, never a traceback."""

import random
import shutil
from functools import cache

import pytest
from omegaconf import OmegaConf

import encode_latents
import evaluate_ddpm_patches
import evaluate_files
import evaluate_task
import export_model
import make_phantom_data
import prepare_data
import sample_ddpm_patches
import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from pipeline import schema
from tests.forks import forked
from tests.tiny import PHANTOM, Workshop, composed, run

IN_PROCESS, IN_PROCESSES = 200, 20
VALUES = [
    *("-1", "0", "1", "2", "3", "2.5", "1e-9", "-0.0", "nan", "-inf", "null", "true", "''", "text", "'a b'", "auto"),
    *("[]", "[0]", "[4,4,4]", "[1,2]", "[null]", "[[1,2],[3]]", "{a: 1}", "{}", "${seed}", "${nothing}", "???"),
    *("${model.dim}", "${oc.env:NOTHING}", "/", ".", "/proc/none", "/dev/null", "none.ckpt", "\u00e9", "'='", "0x10"),
]


@pytest.fixture(scope="module")
def own(workshop, tmp_path_factory):
    """A workshop in which any setting may write."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(workshop.folder, folder, dirs_exist_ok=True)
    return Workshop(folder)


def settings_of(workshop):
    """A command's config and settings with which it ends well, by the command."""
    ckpt, shape = f"ckpt={workshop.ddpm_ckpt}", "shape=[16,16,16]"
    return {
        train_ddpm_patches_4gpu: ("train_ddpm", [*workshop.ddpm, "check=true"]),
        train_vqgan_patches_4gpu: ("train_vqgan", [*workshop.vqgan, "check=true"]),
        encode_latents: ("encode_latents", [*workshop.encode, "check=true", "dataset.latents_dir=f"]),
        sample_ddpm_patches: ("sample_ddpm", [f"xray={workshop.xray}", ckpt, "output=a/ct.nii.gz", "steps=1", shape]),
        evaluate_ddpm_patches: ("evaluate_ddpm", [workshop.data, ckpt, "steps=1", "num_cases=1", "run_dir=b"]),
        export_model: ("export_model", [ckpt, "output=c/model.ckpt", "overwrite=true"]),
        make_phantom_data: ("make_phantom_data", ["dataset.root=d", *PHANTOM, "dataset.phantom.num_cases=1"]),
        prepare_data: ("prepare_data", [workshop.data, "dataset.store=e", "dataset.prepare_workers=0"]),
    }


def judges_of(workshop):
    """The same of those that judge; the task would need more patients."""
    task = [workshop.data, f"ckpt={workshop.ddpm_ckpt}", "steps=1", "run_dir=h", "epochs=1", "common_grid=20"]
    return {
        evaluate_files: ("evaluate_files", [f"generated={workshop.root}", f"real={workshop.root}", "run_dir=g"]),
        evaluate_task: ("evaluate_task", task),
    }


@cache
def keys_of(config, *settings):
    found = [key for key, _ in schema.settings(OmegaConf.to_container(composed(config, *settings)))]
    return [key for key in found if not key.endswith("compile")]  # which takes minutes


def fuzzed(commands, seed):
    """A command and its settings, one or two of which are anything."""
    chance = random.Random(seed)
    module = chance.choice(list(commands))
    config, settings = commands[module]
    keys = keys_of(config, *settings)
    if "check=true" in settings and chance.random() < 0.2:
        settings = [*settings, "check=false"]
    for key in chance.sample(keys, chance.randint(1, 2)):
        more = chance.random()
        if more < 0.1:
            key = f"+{key}.nonsense" if chance.random() < 0.5 else f"+{key.rpartition('.')[0] or 'model'}.nonsense"
        elif more < 0.15:
            settings = [*settings, f"~{key}"]
            continue
        settings = [*settings, f"{key}={chance.choice(VALUES)}"]
    return module, settings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("commands", "seed"), [(of, n) for of, count in ((settings_of, IN_PROCESS), (judges_of, 20)) for n in range(count)]
)
def test_a_message_or_a_run(commands, seed, own, elsewhere, capsys):
    module, settings = fuzzed(commands(own), seed)
    status = 0
    try:
        run(module, *settings)
    except SystemExit as ended:
        status = ended.code
    check(status, capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1000 + IN_PROCESSES))
def test_a_message_or_a_run_of_a_process(seed, own, elsewhere):
    module, settings = fuzzed(settings_of(own), seed)
    with forked(module, *settings, log=elsewhere / "log") as (command,):
        check(command.status(), command.said)


def check(status, said):
    assert status in (0, 2), said
    assert "Traceback" not in said
    assert said.count("error: ") == (status == 2), said
