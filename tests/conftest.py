import os
from pathlib import Path
from unittest import mock

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

IS_AVAILABLE, DEVICE_COUNT = torch.cuda.is_available, torch.cuda.device_count
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")

torch.set_num_threads(1)  # the volumes here are tiny: threads would only wait for each other


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        torch.cuda.init()  # before GPUs are hidden: a driver that has once seen none sees none for good,
        torch.cuda.device_count()  # and torch keeps their number
        return
    for item in items:
        if item.get_closest_marker("gpu"):  # keywords would hold the names of folders too
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _no_gpu():
    """Tests, and the fixtures that they share, say what a CPU gives, also on machines that have a GPU."""
    with (
        mock.patch.object(torch.cuda, "is_available", return_value=False),
        mock.patch.object(torch.cuda, "device_count", return_value=0),
        mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES=""),
    ):
        yield


@pytest.fixture(autouse=True)
def _gpu_where_marked(request, monkeypatch):
    if request.node.get_closest_marker("gpu"):
        monkeypatch.setattr(torch.cuda, "is_available", IS_AVAILABLE)
        monkeypatch.setattr(torch.cuda, "device_count", DEVICE_COUNT)
        if VISIBLE is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", VISIBLE)


@pytest.fixture
def exact():
    """On a GPU, float32 as exact as a CPU's."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    exactly = {"allow_tf32": False, "fp32_precision": "ieee"}  # the first alone leaves convolutions in TF32
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, **exactly):
        yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the real scans beside the repository; tests that use it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real scans in ../shared/data")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Phantom pairs and their store; nothing trained yet. Tests leave it as it is."""
    from tests import tiny  # here, so that the other tests need not wait for Lightning

    workshop = tiny.Workshop(tmp_path_factory.mktemp("workshop"))
    tiny.make_data(workshop.folder)
    return workshop


@pytest.fixture(scope="session")
def workshop(tiny_data):
    """The phantoms with a trained VQ-GAN and a trained diffusion model. Tests leave it as it is."""
    from tests import tiny

    tiny.train_both(tiny_data)
    return tiny_data


@pytest.fixture(scope="session")
def tiny_latents(workshop, tmp_path_factory):
    """Folder of the phantoms' cached latents."""
    from tests import tiny

    folder = tmp_path_factory.mktemp("latents")
    tiny.encode(workshop, folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, so that a command's default paths lead nowhere else."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capsys):
    """Runs a command that must stop, and returns what it says."""

    def refuse(script, *settings):
        from tests import tiny

        with pytest.raises(SystemExit) as stop:
            tiny.run(script, *settings)
        message = capsys.readouterr().err
        assert stop.value.code == 2, message
        assert message.count("error: ") == 1, message
        assert "Traceback" not in message
        return message

    return refuse
