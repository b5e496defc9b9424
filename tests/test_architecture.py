"""Who may import whom, how long a file may be, and that packages do not print."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dataset", "vq_gan_3d", "medclip_cond", "ddpm", "evaluation")
SHARED = ("dataset.patches", "dataset.intensity")  # small interfaces that every package may import
LIGHTNING = ("pytorch_lightning", "lightning", "lightning_fabric")
LIGHTNING_PARTS = ("LightningModule", "LightningDataModule", "Callback", "ModelCheckpoint", "TQDMProgressBar")
MAX_LINES = 250


def package_files():
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def own_files():
    folders = (*PACKAGES, "benchmarks", "tests")
    return sorted([*ROOT.glob("*.py"), *(path for f in folders for path in (ROOT / f).rglob("*.py"))])


def imported_names(source, module):
    """Absolute dotted names that a module's source imports, wherever the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def starts_with(name, prefixes):
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def defines_a_lightning_part(source):
    """Whether a file defines a LightningModule, a DataModule or a callback."""
    bases = [base for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef) for base in node.bases]
    return any(ast.unparse(base).split(".")[-1] in LIGHTNING_PARTS for base in bases)


def broken_rules(source, path):
    """Rules of the design that a package's file breaks; `path` is relative to the repository."""
    package = path.parts[0]
    names = imported_names(source, ".".join(path.with_suffix("").parts))
    broken = [f"imports {name}" for name in names if starts_with(name, ("hydra", "omegaconf"))]
    if not defines_a_lightning_part(source):
        broken += [f"imports {name} without need" for name in names if starts_with(name, LIGHTNING)]
    others = [p for p in (*PACKAGES, "benchmarks", "tests") if p != package]
    allowed = SHARED if package != "dataset" else ()
    broken += [f"imports {n}" for n in names if starts_with(n, others) and not starts_with(n, allowed)]
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    broken += ["prints" for func in calls if isinstance(func, ast.Name) and func.id == "print"]
    return sorted(broken)


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_keeps_to_the_import_rules(path):
    assert broken_rules(path.read_text(encoding="utf-8"), path.relative_to(ROOT)) == []


@pytest.mark.parametrize("path", own_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < MAX_LINES


@pytest.mark.parametrize(
    ("source", "path", "rule"),
    [
        ("import hydra", "ddpm/unet3d.py", "imports hydra"),
        ("def f():\n    from omegaconf import OmegaConf", "ddpm/unet3d.py", "imports omegaconf.OmegaConf"),
        ("import pytorch_lightning as pl", "ddpm/unet3d.py", "imports pytorch_lightning without need"),
        ("from vq_gan_3d.codec import FrozenCodec", "ddpm/unet3d.py", "imports vq_gan_3d.codec.FrozenCodec"),
        ("from dataset import store", "ddpm/unet3d.py", "imports dataset.store"),
        ("from ..dataset import store", "ddpm/unet3d.py", "imports dataset.store"),
        ("from ddpm import ema", "dataset/store.py", "imports ddpm.ema"),
        ("print(1)", "evaluation/report.py", "prints"),
    ],
)
def test_a_broken_rule_is_found(source, path, rule):
    assert broken_rules(source, Path(path)) == [rule]


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("import pytorch_lightning as pl\nclass Ema(pl.Callback): ...", "ddpm/ema.py"),
        ("from dataset.patches import Triple", "ddpm/unet3d.py"),
        ("from dataset import intensity", "evaluation/metrics.py"),
        ("from ddpm.layers import norm\nfrom . import ema", "ddpm/unet3d.py"),
        ("import tensor_hash", "vq_gan_3d/codec.py"),
    ],
)
def test_an_allowed_import_is_left_alone(source, path):
    assert broken_rules(source, Path(path)) == []
