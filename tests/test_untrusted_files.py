"""Files of others are data: no code of ours reads them by a way that could run what they hold, nor calls out."""

import ast
import os
import subprocess
import sys

import pytest
import torch

import sample_ddpm_patches
from medclip_cond import weights as encoder_weights
from tests.test_architecture import ROOT, own_files, room_of
from tests.tiny import load

LOADERS = ("common/weights.py", "pipeline/checkpoints/restricted_pickle.py")  # that may call torch.load
RUN_CODE = {"eval", "exec", "compile", "__import__"}
MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}


def unsafe(source, path):
    """Calls and imports of a file by which data could run as code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
        if name in RUN_CODE or name.startswith(("torch.jit.load", "torch.hub", "torch.package", "pickle.load")):
            found.append(name)
        if name == "torch.load" and (
            path not in LOADERS or not is_true(given.get("weights_only")) and None not in given
        ):
            found.append(name)
        if is_true(given.get("allow_pickle")) or is_true(given.get("trust_remote_code")):
            found.append(name)
    return found


def is_true(value):
    return isinstance(value, ast.Constant) and value.value is True


@pytest.mark.parametrize("path", [p.as_posix() for p in own_files() if room_of(p) != "tests"])
def test_nothing_read_from_a_file_can_run(path):
    assert unsafe((ROOT / path).read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pickle.loads(content)",
        "np.load(path, allow_pickle=True)",
        "import yaml",
        "from joblib import load",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "eval(text)",
    ],
)
def test_a_way_that_could_is_found(source):
    assert unsafe(source, "common/weights.py")
    assert unsafe("torch.load(path, weights_only=True)", "common/weights.py") == []
    assert unsafe("torch.load(path, weights_only=True)", "ddpm/module.py") == ["torch.load"]


CALLS_NOBODY = """
import os, socket, sys

def refuse(self, address, *_):
    print("called", address, file=sys.stderr)
    raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda host, *_, **__: refuse(None, host)
import pytorch_lightning
from medclip_cond.biomedclip import BiomedCLIPEncoder
from transformers.utils.hub import http_user_agent
print(http_user_agent())
try:
    BiomedCLIPEncoder()
except FileNotFoundError as error:
    print(error)
"""


def hub(**variables):
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run([sys.executable, "-c", CALLS_NOBODY], env=env, capture_output=True, text=True, check=True)


def test_offline_means_that_nobody_is_called(tmp_path):
    done = hub(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert "called" not in done.stderr
    agent, message = done.stdout.splitlines()
    assert agent.endswith("telemetry/off")
    assert message.startswith("cannot get open_clip_pytorch_model.bin of microsoft/BiomedCLIP")
    assert "set xray_encoder.weights" in message


def test_without_a_network_the_message_is_the_same(tmp_path):
    done = hub(HF_HOME=str(tmp_path))
    assert "called" in done.stderr
    assert "set xray_encoder.weights" in done.stdout.splitlines()[1]


@pytest.mark.parametrize(("part", "file"), [("BiomedCLIPEncoder", "open_clip"), ("RadDinoEncoder", "preprocessor")])
def test_no_checkpoint_makes_this_machine_call_out(part, file, workshop, elsewhere, refused, monkeypatch):
    """Only who runs the command may name a repository to fetch an X-ray encoder's weights from."""
    called = []

    def call(name, wanted, *_, **__):
        called.append((name, wanted))
        raise OSError("no network in a test")

    monkeypatch.setattr(encoder_weights, "cached_file", call)
    content = load(workshop.ddpm_ckpt)
    content["xray2ctpa"]["parts"]["xray_encoder"] = {"part": part, "weights": "stranger/repository"}
    torch.save(content, "stranger.ckpt")
    settings = [f"xray={workshop.xray}", "output=ct.nii.gz", "ckpt=stranger.ckpt", "steps=1", "shape=[16,16,16]"]
    message = refused(sample_ddpm_patches, *settings)
    assert "names 'stranger/repository' as the weights of its X-ray encoder" in message
    assert called == []
    refused(sample_ddpm_patches, *settings, "xray_weights=trusted/repository")
    ((repository, wanted),) = called
    assert repository == "trusted/repository"
    assert wanted.startswith(file)
