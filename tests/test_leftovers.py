"""A patient who leaves the data set can leave the store: nothing of theirs stays, nothing of others is touched."""

import json
import shutil
from pathlib import Path

import pytest

import encode_latents
import evaluate_ddpm_patches
import prepare_data
from dataset.prepare.run import prepare
from dataset.store.store import VolumeStore
from tests.pairs import add_case
from tests.tiny import Workshop, run

NAMES = ["p", "p.1", "p_2", "p-3", "q"]


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate(NAMES):
        add_case(tmp_path / "data", name, number)
    return tmp_path / "data"


def held(store):
    """Every file of a store but those of the whole data set."""
    return {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file() and path.parent != store}


def leave(root, name):
    (root / name).rename(root.parent / f"left {name}")


@pytest.mark.parametrize("name", NAMES[:4])
def test_all_of_a_case_is_removed_and_nothing_of_cases_of_like_names(name, root, tmp_path):
    store = tmp_path / "store"
    prepare(root, store)
    before = held(store)
    leave(root, name)
    prepare(root, store, prune=True)
    gone = before - held(store)
    assert gone == {path for path in before if Path(path).stem == name}
    assert {path.split("/")[0] for path in gone} == {"cases", "volumes", "xrays", "thumbnails"}
    assert set(json.loads((store / "splits.json").read_text())) == set(NAMES) - {name}
    assert name not in {case.name for case in VolumeStore(store).cases}
    (tmp_path / f"left {name}").rename(root / name)
    assert prepare(root, store).prepared == 1
    assert held(store) == before


def test_records_of_an_earlier_version_do_not_keep_a_patients_split(root, tmp_path):
    """They are not read, and their files are not there to be prepared anew."""
    store = tmp_path / "store"
    prepare(root, store)
    path = store / "cases" / "q.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    leave(root, "q")
    prepare(root, store, prune=True)
    assert set(json.loads((store / "splits.json").read_text())) == set(NAMES) - {"q"}
    assert not [path for path in held(store) if Path(path).stem == "q"]


def test_without_prune_it_is_told_and_everything_stays(root, tmp_path, caplog):
    store = tmp_path / "store"
    prepare(root, store)
    before = held(store)
    assert "prune" not in caplog.text
    leave(root, "q")
    prepare(root, store)
    assert "1 cases of" in caplog.text
    assert "(q)" in caplog.text
    assert "prune=true removes them" in caplog.text
    assert held(store) == before


def test_a_case_that_has_a_problem_is_not_one_that_has_left(root, tmp_path):
    store = tmp_path / "store"
    prepare(root, store)
    before = held(store)
    next((root / "q").glob("*.png")).unlink()
    prepare(root, store, prune=True)
    assert held(store) == before
    assert set(json.loads((store / "splits.json").read_text())) == set(NAMES)


def test_what_later_commands_have_added_goes_too(workshop, elsewhere):
    """Latents, looks of the search for copies, features, the mean CT."""
    own = Workshop(elsewhere)
    shutil.copytree(workshop.root, own.root)
    run(encode_latents, *own.encode[:-1], f"model.vqgan_ckpt={workshop.vqgan_ckpt}")
    settings = [own.data, f"ckpt={workshop.ddpm_ckpt}", "split=train", "num_cases=1", "steps=1", "copies=true"]
    more = ["extractors.random=true", "anatomy=false", "device=cpu", "run_dir=out"]
    run(evaluate_ddpm_patches, *settings, *more)
    before = held(own.store)
    name = VolumeStore(own.store).split("train")[0].name
    table = own.root / "pairs.csv"
    table.write_text("".join(row for row in table.open() if not row.startswith(f"{name},")))
    run(prepare_data, own.data, "dataset.prepare_workers=0", "prune=true")
    gone = before - held(own.store)
    assert {path.split("_")[0].split("/")[0] for path in gone} >= {"latents", "looks", "features", "volumes"}
    assert not [path for path in held(own.store) if name in path]
    assert not list(own.store.glob("mean_ct_*"))
