"""Foreign checkpoints are data: what they name is never imported, called or built."""

import os
import pickle
import sys
import types
import zipfile

import pytest
import torch
from omegaconf import OmegaConf

from pipeline.checkpoints.restricted_pickle import Placeholder, load, plain_state


class WritesAFile:
    """Unpickled by the usual means, it writes a file."""

    def __init__(self, path, how):
        self.path, self.how = str(path), how

    def __reduce__(self):
        if self.how == "shell":
            return os.system, (f"touch {self.path}",)
        if self.how == "eval":
            return eval, (f"open({self.path!r}, 'w')",)
        return exec, (f"open({self.path!r}, 'w')",)


def saved(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("how", ["shell", "eval", "exec"])
def test_what_a_file_wants_to_call_is_not_called(tmp_path, how):
    victim = tmp_path / "victim"
    path = saved(tmp_path / "bad.ckpt", {"state_dict": {"w": torch.ones(2)}, "hyper": WritesAFile(victim, how)})
    content = load(path)
    assert not victim.exists()
    assert isinstance(content["hyper"], Placeholder)
    assert torch.equal(content["state_dict"]["w"], torch.ones(2))
    torch.load(path, weights_only=False)  # the file is as dangerous as it should be
    assert victim.exists()


class WithEverything:
    """A call whose argument is a call, with state, list items and dict items to set on its result."""

    def __init__(self, path):
        self.inner = WritesAFile(path, "shell")

    def __reduce__(self):
        return getattr, (self.inner, "anything"), {"state": 1}, iter([1, 2]), iter([("key", 2)])


def test_calls_upon_calls_stay_inert(tmp_path):
    content = load(saved(tmp_path / "bad.ckpt", {"hyper": WithEverything(tmp_path / "victim")}))
    assert not (tmp_path / "victim").exists()
    assert isinstance(content["hyper"], Placeholder)
    assert content["hyper"].state == {"state": 1}
    assert isinstance(content["hyper"](1, a=2), Placeholder)


def test_tensors_and_containers_come_back(tmp_path):
    net = torch.nn.Conv3d(1, 2, 3)
    content = {
        "state_dict": net.state_dict(),
        "half": torch.ones(2).half(),
        "parameter": net.bias,
        "n": [1, (2.5, None)],
    }
    content["view"] = torch.arange(6).view(2, 3).T
    found = load(saved(tmp_path / "good.ckpt", content))
    assert list(found["state_dict"]) == ["weight", "bias"]
    for name, tensor in net.state_dict().items():
        assert torch.equal(found["state_dict"][name], tensor)
    assert found["half"].dtype == torch.float16
    assert torch.equal(found["parameter"], net.bias)
    assert torch.equal(found["view"], content["view"])
    assert found["n"] == [1, (2.5, None)]


def test_settings_are_read_without_their_library(tmp_path, monkeypatch):
    settings = {
        "model": {"n_hiddens": 16, "downsample": [4, 4, 4], "norm_type": "group"},
        "other": "${model.n_hiddens}",
    }
    gone = types.ModuleType("gone_project")
    gone.Setting = type("Setting", (), {"__module__": "gone_project"})
    monkeypatch.setitem(sys.modules, "gone_project", gone)
    setting = gone.Setting()
    setting.rate = 0.5
    path = saved(tmp_path / "a.ckpt", {"cfg": OmegaConf.create(settings), "setting": setting, "type": gone.Setting})
    for name in [name for name in sys.modules if name.split(".")[0] in ("omegaconf", "gone_project")]:
        monkeypatch.setitem(sys.modules, name, None)  # any import of it would fail
    content = load(path)
    assert plain_state(content["cfg"]) == settings
    assert plain_state(content["setting"]) == {"rate": 0.5}
    assert content["type"] is Placeholder


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load(tmp_path / "none.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="no file of torch.save"):
        load(tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match="holds a list"):
        load(saved(tmp_path / "list.ckpt", [1]))
    with zipfile.ZipFile(tmp_path / "program.ckpt", "w") as archive:
        archive.writestr("program/constants.pkl", b"")
    with pytest.raises(ValueError, match="TorchScript program"):
        load(tmp_path / "program.ckpt")


def test_a_damaged_file_is_a_message(tmp_path):
    path = saved(tmp_path / "a.ckpt", {"w": torch.zeros(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut off"):
        load(path)
    path.write_bytes(whole.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_vX"))
    with pytest.raises(ValueError, match="damaged, a/data.pkl in it no longer has the checksum"):
        load(path)
