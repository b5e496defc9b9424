from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

torch.set_num_threads(1)  # the volumes here are tiny: threads would only wait for each other


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the real scans beside the repository; tests that use it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real scans in ../shared/data")
    return SHARED_DATA
