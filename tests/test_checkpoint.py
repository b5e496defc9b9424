"""Checkpoints as files: what they say comes back as it was; what is wrong in one is a message that names it."""

import errno
import json
import math
import os
import re
from copy import copy
from unittest import mock
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from torch import nn

import import_vqgan
import sample_ddpm_patches
from common.errors import UserError
from pipeline.checkpoints.checkpoint import read, write
from pipeline.checkpoints.description import GeneratorDescription, ModelDescription
from pipeline.checkpoints.networks import load_codec, load_generator
from tests.test_first_version import FIRST
from tests.test_restricted_pickle import WritesAFile
from tests.tiny import load

STAGES = {"vqgan": "vqgan.ckpt", "ddpm": "ddpm.ckpt", "model": "model.ckpt"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_description_comes_back_as_it_stood_in_the_file(stage):
    plain = load(FIRST / STAGES[stage])["xray2ctpa"]
    description = ModelDescription.from_plain(plain, "a.ckpt")
    assert isinstance(description, GeneratorDescription) == (stage != "vqgan")
    assert json.dumps(description.to_plain(), sort_keys=True) == json.dumps(plain, sort_keys=True)


def test_parts_come_back_with_every_number():
    parts = {"diffusion": {"part": "CosineDDPM", "x0_limit": math.inf, "snr_limit": None, "sizes": (1, 2)}}
    made = ModelDescription(stage="vqgan", parts=parts, hu_window=(-1000, 500.5))
    plain = made.to_plain()
    assert plain["parts"]["diffusion"] == parts["diffusion"] | {"sizes": [1, 2]}
    assert plain["hu_window"] == [-1000, 500.5]
    assert ModelDescription.from_plain(plain, "a.ckpt").to_plain() == plain


def test_what_is_written_is_read(tmp_path):
    description = ModelDescription.from_plain(load(FIRST / "vqgan.ckpt")["xray2ctpa"], "a.ckpt")
    network = nn.Linear(2, 3)
    write(tmp_path / "a.ckpt", description, {"vqgan": network}, NOTE="more")
    stored = read(tmp_path / "a.ckpt", "vqgan")
    assert (stored.description, load(tmp_path / "a.ckpt")["NOTE"]) == (description, "more")
    assert stored.state.keys() == {"vqgan.weight", "vqgan.bias"}
    assert torch.equal(stored.load(nn.Linear(2, 3), stored.weights("vqgan")).weight, network.weight)


def test_only_what_shapes_the_weights_is_compared():
    plain = load(FIRST / "ddpm.ckpt")["xray2ctpa"]
    before = ModelDescription.from_plain(plain, "a.ckpt").shaping()
    plain["codec"]["path"] = "/elsewhere"
    plain["parts"]["xray_encoder"]["weights"] = "/elsewhere"
    plain |= {"versions": {}, "stride": [4, 4, 4]}
    assert ModelDescription.from_plain(plain, "a.ckpt").shaping() == before
    plain["codec"]["hash"] = "0"
    assert ModelDescription.from_plain(plain, "a.ckpt").shaping() != before


def without(key):
    return lambda content: content["xray2ctpa"].pop(key)


def saying(**values):
    return lambda content: content["xray2ctpa"].update(values)


def part(name, value):
    return lambda content: content["xray2ctpa"]["parts"].update({name: value})


def unet(**values):
    return lambda content: content["xray2ctpa"]["parts"]["denoiser"]["unet"].update(values)


def claiming(content):
    content["state_dict"]["denoiser.huge"] = torch.ones(1).expand(2**20, 2**20)


def holding(**values):
    return lambda content: content.update(values)


MALFORMED = {
    "no format": (without("format"), "in format None, need stage 'ddpm' in format 1"),
    "another format": (saying(format=2), "in format 2, need stage 'ddpm' in format 1"),
    "no stage": (without("stage"), "holds stage None"),
    "a list for a stage": (saying(stage=["ddpm"]), r"holds stage \['ddpm'\]"),
    "no parts": (without("parts"), "parts: Field required"),
    "a list of parts": (saying(parts=[1]), r"parts: .*got \[1\]"),
    "a number for a part": (part("denoiser", 3), "parts.denoiser: .*got 3"),
    "a list for metadata": (holding(xray2ctpa=[1]), "holds no description"),
    "no metadata": (holding(xray2ctpa={}), "holds no description"),
    "a string as patch size": (saying(patch_size="128"), "patch_size: .*got '128'"),
    "a broken patch size": (saying(patch_size=[16.9, 16, 16]), "patch_size.0: .*got 16.9"),
    "an empty patch": (saying(patch_size=[16, 0, 16]), "patch_size.1: .*greater than 0, got 0"),
    "a patch of no latent voxels": (saying(stride=[12, 12, 13]), "stride.2: .*multiple of 4, got 13"),
    "two sizes": (saying(shape=[30, 24]), "shape.2: Field required"),
    "no spacing": (saying(spacing=[1.0, float("nan"), 1.0]), "spacing.1: "),
    "a window upside down": (saying(hu_window=[1000, -1000]), "lowest < highest"),
    "a window without numbers": (saying(hu_window=["low", "high"]), "hu_window.0"),
    "ranges that are none": (saying(xray_ranges={"uint8": 3}), "xray_ranges.uint8: .*got 3"),
    "a codec without a hash": (saying(codec={"path": "a"}), "codec.hash: Field required"),
    "a tensor in the description": (saying(config={"model": torch.ones(1)}), "more than plain data"),
    "no denoiser": (lambda content: content["xray2ctpa"]["parts"].pop("denoiser"), "no denoiser that this version"),
    "an unknown part": (part("denoiser", {"part": "Popen"}), "unknown part 'Popen'"),
    "a name that is a list": (part("denoiser", {"part": ["UNet3D"]}), "no denoiser that this version"),
    "an unknown argument": (part("diffusion", {"part": "CosineDDPM", "steps": 5}), "no diffusion .*'steps'"),
    "an argument of another type": (part("diffusion", {"part": "CosineDDPM", "num_steps": "5"}), "no diffusion"),
    "a part without a name": (part("diffusion", {"num_steps": 5}), "no diffusion .* is no network"),
    "no tensors": (lambda content: content.pop("state_dict"), "no tensors by name"),
    "numbers for tensors": (holding(state_dict={"denoiser.a": 1}), "no tensors by name"),
    "tensors of nothing": (holding(state_dict={}), "another shape"),
    "a network as wide as no memory": (unet(dim=2**20), "another shape: denoiser|another shape: "),
    "a network without end": (unet(num_res_blocks=10**9), "asks for more than the [0-9]+ tensors that the file holds"),
    "levels without end": (unet(dim_mults=[1] * 10_000), "asks for more than the [0-9]+ tensors"),
    "steps without end": (part("diffusion", {"part": "CosineDDPM", "num_steps": 10**12}), "1 to 1,000,000 diffusion"),
    "an encoder as wide as no memory": (part("xray_encoder", {"part": "TinyRandomEncoder", "width": 2**20}), "is tiny"),
    "an encoder without end": (
        part("xray_encoder", {"part": "BiomedCLIPNetwork", "layers": 10**9, "width": 64}),
        "asks for more than the",
    ),
    "somebody's repository": (
        part("xray_encoder", {"part": "RadDinoEncoder", "weights": "somebody/repository"}),
        "names 'somebody/repository' .*xray_weights=",
    ),
    "tensors larger than the file": (claiming, "its tensors claim 4,39[0-9,]* bytes, the file has"),
    "a list of callbacks": (holding(callbacks=[1]), "no averaged weights"),
    "an average of nothing": (holding(callbacks={"WeightAverage": {}}), "no tensors by name"),
    "an average of another network": (
        holding(callbacks={"WeightAverage": {"average": {"denoiser.other": torch.ones(1)}}}),
        "another shape",
    ),
}


@pytest.mark.parametrize(("change", "said"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_checkpoint_is_a_message_that_names_it(change, said, tmp_path):
    content = load(FIRST / "ddpm.ckpt")
    change(content)
    path = tmp_path / "bad.ckpt"
    torch.save(content, path)
    with pytest.raises(UserError, match=said) as caught:
        load_generator(path, FIRST / "vqgan.ckpt")
    assert str(path) in str(caught.value)


def test_a_malformed_codec_is_named_too(tmp_path):
    content = load(FIRST / "vqgan.ckpt")
    del content["xray2ctpa"]["parts"]["vqgan"]
    torch.save(content, tmp_path / "codec.ckpt")
    with pytest.raises(UserError, match=r"codec\.ckpt describes no vqgan"):
        load_codec(tmp_path / "codec.ckpt")


def said_of(path, refused):
    command = [f"xray={FIRST}/xray.png", "output=ct.nii.gz", f"vqgan_ckpt={FIRST}/vqgan.ckpt", "steps=1"]
    message = refused(sample_ddpm_patches, *command, f"ckpt={path}")
    assert path in message
    return message


def test_a_command_says_it_in_one_message(elsewhere, refused):
    content = load(FIRST / "ddpm.ckpt")
    content["xray2ctpa"] |= {"patch_size": "128", "codec": None}
    torch.save(content, "bad.ckpt")
    assert re.search("codec: .*; patch_size: .*", said_of("bad.ckpt", refused))


def test_nobody_is_advised_to_run_a_files_code(elsewhere, refused):
    content = load(FIRST / "ddpm.ckpt") | {"more": WritesAFile("victim", "shell")}
    torch.save(content, "harmful.ckpt")
    message = said_of("harmful.ckpt", refused)
    assert "more than tensors and plain data" in message
    assert "weights_only" not in message
    assert not os.path.exists("victim")


@pytest.mark.parametrize("content", [b"", b"PK", b"weights"])
def test_a_file_that_holds_nothing(content, elsewhere, refused):
    with open("nothing.ckpt", "wb") as file:
        file.write(content)
    message = said_of("nothing.ckpt", refused)
    assert "empty, cut off or no file of torch.save" in message
    assert "mmap" not in message


def test_damaged_bytes_are_a_message(tmp_path):
    whole = (FIRST / "vqgan.ckpt").read_bytes()
    start = whole.index(b"xray2ctpa") - 40
    (tmp_path / "a.ckpt").write_bytes(whole[:start] + bytes(range(100, 140)) + whole[start + 40 :])
    with pytest.raises(UserError, match=r"a\.ckpt is not a readable checkpoint"):
        load_codec(tmp_path / "a.ckpt")


def test_a_disk_that_fails_is_not_a_damaged_file(monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(OSError, match="Input/output"):
        load_codec(FIRST / "vqgan.ckpt")


def test_a_flipped_bit_is_noticed(tmp_path):
    content = bytearray((FIRST / "vqgan.ckpt").read_bytes())
    tensor = load(FIRST / "vqgan.ckpt")["state_dict"]["vqgan.encoder.linear.weight"]
    content[content.index(tensor.numpy().tobytes()) + 3] ^= 1
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.ckpt is not a readable checkpoint: damaged, .*no longer has the checksum"):
        load_codec(tmp_path / "a.ckpt")


@pytest.mark.parametrize("read", [load_codec, import_vqgan._read])
def test_a_file_that_unpacks_to_more_is_refused_before_it_is_unpacked(read, tmp_path):
    torch.save({"state_dict": {"encoder": torch.zeros(2**22)}}, tmp_path / "plain.ckpt")
    with ZipFile(tmp_path / "plain.ckpt") as plain, ZipFile(tmp_path / "packed.ckpt", "w", ZIP_DEFLATED) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    with (
        pytest.raises(UserError, match=r"packed\.ckpt is no checkpoint of torch\.save.* stand for 16,7"),
        mock.patch.object(torch, "load", side_effect=AssertionError("it was unpacked")),
    ):
        read(tmp_path / "packed.ckpt")


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    path = tmp_path / "shared.ckpt"
    torch.save({"state_dict": {"encoder": torch.zeros(2**12)}}, path)
    with ZipFile(path, "a") as archive:
        (tensor,) = (entry for entry in archive.infolist() if entry.filename.endswith("data/0"))
        for n in range(8):
            again = copy(tensor)
            again.filename = f"{tensor.filename}{n}"
            archive.filelist.append(again)
        archive._didModify = True
    with pytest.raises(UserError, match=r"shared\.ckpt is no checkpoint of torch\.save"):
        load_codec(path)
