"""The drawing of the house: who may import whom, which libraries live where, and how long a file may be."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# room: the rooms that its modules may import, besides their own
PACKAGES = ("common", "dataset", "vq_gan_3d", "medclip_cond", "ddpm", "evaluation", "evaluation/report")
DATA = ("dataset", "dataset/scans", "dataset/store", "dataset/prepare", "dataset/phantom")
MAY_IMPORT = {
    "common": (),
    "vq_gan_3d": ("common",),
    "medclip_cond": ("common",),
    "ddpm": ("common",),
    "evaluation": ("common",),
    "evaluation/report": ("common", "evaluation"),
    "dataset/scans": ("common",),
    "dataset/store": ("common", "dataset/scans"),
    "dataset": ("common", "dataset/scans", "dataset/store"),
    "dataset/prepare": ("common", "dataset/scans", "dataset/store"),
    "dataset/phantom": ("common", "dataset/scans", "dataset/store", "dataset/prepare"),
    "pipeline": (*PACKAGES, *DATA),
    "pipeline/checkpoints": (*PACKAGES, *DATA, "pipeline"),
    "pipeline/training": (*PACKAGES, *DATA, "pipeline", "pipeline/checkpoints"),
    "pipeline/sampling": (*PACKAGES, *DATA, "pipeline", "pipeline/checkpoints"),
}
PIPELINE = ("pipeline", "pipeline/checkpoints", "pipeline/training", "pipeline/sampling")
MAY_IMPORT |= {
    "commands": (*PACKAGES, *DATA, *PIPELINE),
    "benchmarks": (*PACKAGES, *DATA, *PIPELINE, "commands"),
    "tests": (*PACKAGES, *DATA, *PIPELINE, "commands", "benchmarks"),
}
ABOVE = (*PIPELINE, "commands", "benchmarks", "tests")  # where configs are read

# library: the rooms that may import it; Lightning is also where its parts are defined
LIBRARIES = {
    ("hydra", "omegaconf"): ABOVE,
    ("pytorch_lightning", "lightning", "lightning_fabric"): ("pipeline/training", "commands", "benchmarks", "tests"),
}
LIGHTNING_PARTS = ("LightningModule", "LightningDataModule", "Callback", "ModelCheckpoint", "TQDMProgressBar")
# neither they nor what they import need torch: preparation starts many processes, and torch takes seconds
TORCH_FREE = ("common/geometry.py", "dataset/scans", "dataset/prepare", "dataset/phantom")
MAY_PRINT = ("commands", "benchmarks", "tests", "pipeline", "pipeline/training")
MAX_LINES = 250


def own_files():
    return sorted(path for path in map(relative, ROOT.rglob("*.py")) if room_of(path) in MAY_IMPORT)


def relative(path):
    return path.relative_to(ROOT)


def room_of(path):
    """The room of a file, of a path relative to the repository."""
    folder = path.parent.as_posix()
    if folder == ".":
        return "commands"
    return folder.partition("/")[0] if folder.startswith(("benchmarks", "tests")) else folder


@cache
def room_of_module(name):
    """The room of a dotted name, of a module or of something in one; None if it is not ours."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = Path(*parts[:length])
        if (ROOT / path).with_suffix(".py").is_file():
            return room_of(path.with_suffix(".py"))
        if (ROOT / path).is_dir() and path.as_posix() in MAY_IMPORT:
            return path.as_posix()
    return None


def imported_names(tree, module):
    """Absolute dotted names that a module imports, wherever the import stands."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def starts_with(name, prefixes):
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def defines_a_lightning_part(tree):
    """Whether a file defines a LightningModule, a DataModule or a callback."""
    bases = [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
    return any(ast.unparse(base).split(".")[-1] in LIGHTNING_PARTS for base in bases)


def broken_rules(source, path):
    """Rules that a file breaks; `path` is relative to the repository."""
    tree, room = ast.parse(source), room_of(path)
    names = sorted(imported_names(tree, ".".join(path.with_suffix("").parts)))
    broken = [f"imports {n}" for n in names if room_of_module(n) not in (None, room, *MAY_IMPORT[room])]
    for library, rooms in LIBRARIES.items():
        if room not in rooms and not ("pytorch_lightning" in library and defines_a_lightning_part(tree)):
            broken += [f"imports {n}" for n in names if starts_with(n, library)]
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if room not in MAY_PRINT:
        broken += ["prints" for func in calls if isinstance(func, ast.Name) and func.id == "print"]
    return broken


def needed_at_import(source, module):
    """Absolute dotted names that a module imports when it is imported: not in functions, not for type checkers."""
    tree = ast.parse(source)
    top = [n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))]
    top = [n for n in top if not isinstance(n, ast.FunctionDef)]
    return imported_names(ast.Module(top, []), module)


@cache
def reaches_torch(path):
    """Whether importing a file imports torch."""
    source = (ROOT / path).read_text(encoding="utf-8")
    for name in needed_at_import(source, ".".join(path.with_suffix("").parts)):
        if starts_with(name, ("torch", "pytorch_lightning", "transformers", "monai")):
            return True
        for candidate in (name, name.rpartition(".")[0]):
            ours = Path(f"{candidate.replace('.', '/')}.py")
            if ours != path and (ROOT / ours).is_file() and reaches_torch(ours):
                return True
    return False


def ids(path):
    return path.as_posix()


@pytest.mark.parametrize("path", own_files(), ids=ids)
def test_a_file_keeps_to_the_rules_of_its_room(path):
    assert broken_rules((ROOT / path).read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize("path", own_files(), ids=ids)
def test_files_are_short(path):
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) < MAX_LINES


@pytest.mark.parametrize("path", [p for p in own_files() if p.as_posix().startswith(TORCH_FREE)], ids=ids)
def test_preparation_needs_no_torch(path):
    assert not reaches_torch(path)


def test_every_folder_with_code_is_a_room():
    folders = {p.parent for p in ROOT.rglob("*.py") if not {".venv", "outputs"} & set(relative(p).parts)}
    assert {room_of(relative(folder / "x.py")) for folder in folders} == set(MAY_IMPORT)


def test_the_root_holds_commands_alone():
    for path in ROOT.glob("*.py"):
        assert 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"), f"{path.name} is no command"


@pytest.mark.parametrize(
    ("source", "path", "rule"),
    [
        ("from ddpm import ema", "common/patches.py", "imports ddpm.ema"),
        ("from vq_gan_3d.codec import FrozenCodec", "ddpm/unet3d.py", "imports vq_gan_3d.codec.FrozenCodec"),
        ("from dataset.store import store", "ddpm/unet3d.py", "imports dataset.store.store"),
        ("from ..dataset import intensity", "medclip_cond/lifting.py", "imports dataset.intensity"),
        ("import dataset.intensity", "evaluation/metrics.py", "imports dataset.intensity"),
        ("from dataset.store.store import Store", "dataset/scans/drr.py", "imports dataset.store.store.Store"),
        ("from dataset.prepare import cases", "dataset/store/store.py", "imports dataset.prepare.cases"),
        ("from ddpm import ema", "dataset/store/store.py", "imports ddpm.ema"),
        ("from dataset.prepare import cases", "dataset/datamodule.py", "imports dataset.prepare.cases"),
        ("import dataset.phantom.thorax", "dataset/prepare/run.py", "imports dataset.phantom.thorax"),
        ("from pipeline.training import run", "dataset/sampler.py", "imports pipeline.training.run"),
        ("from pipeline.checkpoints import parts", "pipeline/cli.py", "imports pipeline.checkpoints.parts"),
        ("from pipeline.training.run import fit", "pipeline/checkpoints/parts.py", "imports pipeline.training.run.fit"),
        ("from pipeline.training import run", "pipeline/sampling/drawing.py", "imports pipeline.training.run"),
        ("from pipeline.sampling import drawing", "pipeline/training/run.py", "imports pipeline.sampling.drawing"),
        ("import prepare_data", "pipeline/training/run.py", "imports prepare_data"),
        ("import sample_ddpm_patches", "dataset/sampler.py", "imports sample_ddpm_patches"),
        ("from benchmarks import timing", "run_demo.py", "imports benchmarks.timing"),
        ("from tests import tiny", "benchmarks/timing.py", "imports tests.tiny"),
        ("import hydra", "ddpm/unet3d.py", "imports hydra"),
        ("def f():\n    from omegaconf import OmegaConf", "dataset/sampler.py", "imports omegaconf.OmegaConf"),
        ("import pytorch_lightning as pl", "ddpm/unet3d.py", "imports pytorch_lightning"),
        ("import pytorch_lightning as pl", "pipeline/sampling/drawing.py", "imports pytorch_lightning"),
        ("print(1)", "evaluation/report.py", "prints"),
    ],
)
def test_a_broken_rule_is_found(source, path, rule):
    assert broken_rules(source, Path(path)) == [rule]


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("import pytorch_lightning as pl\nclass Ema(pl.Callback): ...", "ddpm/ema.py"),
        ("from common.geometry import Triple", "ddpm/unet3d.py"),
        ("from common import tensor_hash", "vq_gan_3d/codec.py"),
        ("from ddpm.layers import norm\nfrom . import ema", "ddpm/unet3d.py"),
        ("import hydra\nimport pytorch_lightning", "train_ddpm_patches_4gpu.py"),
    ],
)
def test_an_allowed_import_is_left_alone(source, path):
    assert broken_rules(source, Path(path)) == []


@pytest.mark.parametrize(
    ("source", "needs"),
    [
        ("import torch", True),
        ("def f():\n    import torch", False),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", False),
        ("class A:\n    import torch", True),
    ],
)
def test_an_import_that_waits_is_told_from_one_that_does_not(source, needs):
    assert ("torch" in needed_at_import(source, "m")) is needs
