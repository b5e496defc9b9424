"""Files of published weights: read whatever their form, or refused with what to get."""

import errno

import pytest
import torch
from safetensors.torch import save_file

from common.errors import UserError
from common.weights import read_weights, under

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(1, dtype=torch.int64)}
SAVE = {"some.pth": torch.save, "some.safetensors": save_file}


@pytest.mark.parametrize("name", SAVE)
def test_tensors_are_read_by_name(name, tmp_path):
    SAVE[name](STATE, tmp_path / name)
    state = read_weights(tmp_path / name, "get it")
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[key], value) for key, value in STATE.items())
    assert under(state, "a.").keys() == {"weight"}


@pytest.mark.parametrize("name", SAVE)
def test_a_damaged_file_is_refused_with_what_to_get(name, tmp_path):
    path = tmp_path / name
    SAVE[name](STATE, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>not found</html>", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is not a readable file of weights.*: get it"):
            read_weights(path, "get it")
    path.unlink()
    with pytest.raises(UserError, match=f"no file of weights at .*{name}: get it"):
        read_weights(path, "get it")


def test_a_failing_disk_is_not_called_a_damaged_file(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    torch.save(STATE, tmp_path / "some.pth")
    monkeypatch.setattr(torch, "load", broken)
    with pytest.raises(OSError, match="Input/output error"):
        read_weights(tmp_path / "some.pth", "get it")


def test_what_is_no_named_tensor_is_left_out(tmp_path):
    torch.save({**STATE, 3: torch.zeros(1), "epoch": 7}, tmp_path / "some.pth")
    assert read_weights(tmp_path / "some.pth", "get it").keys() == STATE.keys()
    torch.save(torch.zeros(1), tmp_path / "some.pth")
    assert read_weights(tmp_path / "some.pth", "get it") == {}
