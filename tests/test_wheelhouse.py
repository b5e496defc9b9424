"""A machine without a network gets its environment from a folder of wheels, with the real scripts, pip and venv.

The packages are stand-ins: a wheel is a zip archive, and the project's is made by a few lines of its own.
"""

import hashlib
import inspect
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NO_NETWORK = ("unshare", "--user", "--map-root-user", "--net")
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def write_wheel(folder, name, version):
    """A wheel with one module, which holds its version."""
    path = Path(folder) / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in {**files, f"{about}/RECORD": record}.items():
            archive.writestr(file, content)
    return path


BACKEND = f"""
import zipfile
from pathlib import Path

{inspect.getsource(write_wheel)}

def build_editable(folder, *_):
    return write_wheel(folder, "project", "1.0").name
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The two scripts in a folder with requirements of stand-ins, which pip finds in another folder."""
    project, index = tmp_path / "project", tmp_path / "index"
    for folder in (project, index):
        folder.mkdir()
    for name in ("make_env.sh", "make_wheelhouse.sh"):
        shutil.copy(ROOT / name, project)
    (project / "requirements.txt").write_text("torch==2.0\nhydra_core==1.0\n")
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "backend.py").write_text(BACKEND)
    for name, version in (("torch", "2.0"), ("hydra_core", "1.0"), ("antlr4_python3_runtime", "4.9.3")):
        write_wheel(index, name, version)
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    monkeypatch.delenv("WHEELHOUSE", raising=False)
    return project


def call(*words, **options):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **options)


@pytest.fixture
def wheelhouse(project):
    done = call(project / "make_wheelhouse.sh")
    assert done.returncode == 0, done.stderr
    return project / "wheelhouse"


def test_a_wheelhouse_holds_all_requirements_and_their_checksums(wheelhouse):
    wheels = sorted(path.name for path in wheelhouse.glob("*.whl"))
    assert [name.partition("-")[0] for name in wheels] == ["antlr4_python3_runtime", "hydra_core", "torch"]
    sums = dict(reversed(line.split()) for line in (wheelhouse / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: hashlib.sha256((wheelhouse / name).read_bytes()).hexdigest() for name in wheels}


def test_the_environment_is_made_without_a_network(project, wheelhouse, tmp_path, monkeypatch):
    if not shutil.which("unshare") or call(*NO_NETWORK, "true").returncode:
        pytest.skip("this machine permits no network namespaces (unshare --user --net)")
    monkeypatch.delenv("PIP_NO_INDEX")  # the script has to see to that
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    monkeypatch.setenv("PIP_RETRIES", "0")
    wheelhouse.rename(tmp_path / "usb stick")
    monkeypatch.setenv("WHEELHOUSE", "usb stick")
    done = call(*NO_NETWORK, project / "make_env.sh", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    code = "import torch, hydra_core, project; print(torch.VERSION, hydra_core.VERSION, project.VERSION)"
    assert call(project / ".venv/bin/python", "-c", code, cwd=tmp_path).stdout == "2.0 1.0 1.0\n"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "torch-2.0-py3-none-any.whl").write_bytes(b"PK"), "torch-2.0-py3-none-any.whl"),
        (lambda folder: (folder / "torch-2.0-py3-none-any.whl").unlink(), "torch-2.0-py3-none-any.whl"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
    ],
)
def test_a_wheelhouse_beside_the_script_is_taken_but_not_if_damaged(damage, said, project, wheelhouse):
    damage(wheelhouse)
    done = call(project / "make_env.sh")
    assert done.returncode == 2
    assert said in done.stderr
    assert not (project / ".venv").exists()


def test_another_python_and_machine_are_asked_for_by_their_names(project, tmp_path, monkeypatch):
    calls, python = tmp_path / "calls", tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@" >>"$CALLS"\n')
    python.chmod(0o755)
    (tmp_path / "there").mkdir()
    write_wheel(tmp_path / "there", "torch", "2.0")
    for name, value in {"PYTHON": python, "CALLS": calls, "TARGET_PYTHON": "3.12", "TARGET_ARCH": "aarch64"}.items():
        monkeypatch.setenv(name, str(value))
    assert call(project / "make_wheelhouse.sh", "there", cwd=tmp_path).returncode == 0
    *_, download = calls.read_text().splitlines()
    for words in (
        "--only-binary=:all:",
        f"--dest {tmp_path}/there",
        "--python-version 3.12",
        "--platform manylinux_2_28_aarch64",
        "--platform manylinux_2_17_aarch64",
        "-r requirements.txt",
    ):
        assert words in download


def test_a_machine_that_has_the_rest_gets_some_packages_only(project, monkeypatch):
    write_wheel(project.parent / "index", "hydra_core", "2.0")
    write_wheel(project.parent / "index", "ndindex", "7.0")  # needed by a requirement, itself none
    monkeypatch.setenv("ONLY", "hydra-core ndindex")
    done = call(project / "make_wheelhouse.sh")
    assert done.returncode == 0, done.stderr
    wheels = sorted(path.name.rpartition("-py3")[0] for path in (project / "wheelhouse").glob("*.whl"))
    assert wheels == ["antlr4_python3_runtime-4.9.3", "hydra_core-1.0", "ndindex-7.0"]


def test_containers_do_nothing_but_make_the_environment():
    lines = [line.split() for line in (ROOT / "Containerfile").read_text().splitlines() if line[:1] not in ("#", "")]
    assert [words[0] for words in lines] == ["FROM", "WORKDIR", "COPY", "RUN", "ENV"]
    assert lines[3][1:] == ["./make_env.sh"]
    recipe = (ROOT / "apptainer.def").read_text()
    assert recipe.partition("%post\n")[2].partition("\n\n")[0].split() == ["/opt/xray2ctpa/make_env.sh"]
    assert lines[0][1] in recipe
