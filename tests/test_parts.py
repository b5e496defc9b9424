"""Parts that checkpoints name: there and back, and nothing else is ever built."""

import json
from importlib import import_module

import pytest

from ddpm.diffusion import CosineDDPM, RectifiedFlow
from pipeline.checkpoints.parts import PARTS, build, complete, describe, differences

FLOW = {"_target_": "ddpm.diffusion.RectifiedFlow", "time_std": 0.5}


def test_a_description_is_plain_and_builds_the_part_again():
    description = describe({"diffusion": FLOW, "levels": (1, 2)})
    assert json.loads(json.dumps(description)) == {
        "diffusion": {"part": "RectifiedFlow", "time_std": 0.5},
        "levels": [1, 2],
    }
    built = build(description)
    assert isinstance(built["diffusion"], RectifiedFlow)
    assert built["diffusion"].time_std == 0.5


def test_nested_and_partial_parts_are_built():
    unet = {"_target_": "ddpm.unet3d.UNet3D", "_partial_": True, "dim": 4, "dim_mults": [1, 2], "middle_blocks": 0}
    denoiser = {
        "_target_": "ddpm.denoiser.PatchDenoiser",
        "unet": unet,
        "latent_channels": 2,
        "pooled_dim": 8,
        "token_dim": 8,
        "cond": ["pooled"],
    }
    built = build(json.loads(json.dumps(describe(denoiser))))
    assert built.unet.stem.weight.shape[0] == 4


@pytest.mark.parametrize(
    "target", ["os.system", "ddpm.diffusion.Diffusion", "elsewhere.RectifiedFlow", "subprocess.Popen"]
)
def test_only_listed_classes_are_described(target):
    with pytest.raises(ValueError, match="not a part"):
        describe({"_target_": target})


@pytest.mark.parametrize("name", ["system", "os.system", "Popen", "ddpm.diffusion.RectifiedFlow", "Diffusion"])
def test_only_listed_names_are_built(name):
    with pytest.raises(ValueError, match="unknown part"):
        build({"part": name, "time_std": 1.0})


def test_a_target_in_a_description_is_only_data():
    assert build({"_target_": "os.system", "command": "true"}) == {"_target_": "os.system", "command": "true"}


def test_every_name_stands_for_a_class_of_that_name():
    for name, module in PARTS.items():
        assert getattr(import_module(module), name).__name__ == name
    assert isinstance(build({"part": "CosineDDPM", "num_steps": 5}), CosineDDPM)


def test_differences_name_the_path_and_both_values():
    a = {"unet": {"part": "UNet3D", "dim": 8, "mults": [1, 2]}, "only": 1}
    b = {"unet": {"part": "UNet3D", "dim": 16, "mults": [1, 2]}}
    assert differences(a, b) == ["only: 1 in the checkpoint, None now", "unet.dim: 8 in the checkpoint, 16 now"]
    assert differences(a, a) == []


def test_an_argument_that_a_description_lacks_has_its_default():
    short = {"codec": [{"part": "KLBottleneck", "dim": 4}], "more": 1}
    whole = {"codec": [{"part": "KLBottleneck", "dim": 4, "weight": 1e-4, "initial_std": 0.05}], "more": 1}
    assert complete(short) == complete(whole) == whole
    assert complete({"part": "of a later version", "a": 1}) == {"part": "of a later version", "a": 1}
