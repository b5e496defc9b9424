"""README.md and docs/ say what is true of the code: links, names, settings, defaults, rules, Python."""

import ast
import re
from functools import cache
from importlib import import_module

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pipeline import cli
from tests import pages
from tests import test_architecture as rules
from tests.pages import PAGES, README, ROOT

SCRIPTS = sorted(p.stem for p in cli.CONFIG_DIR.glob("*.yaml") if p.stem != "script")
GROUPS = ("model", "dataset", "diffusion", "optimizer", "quantizer")  # whose values users set
every_page = pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])


@cache
def composed(name, *choices):
    """A command's config, with Hydra's own node in it."""
    GlobalHydra.instance().clear()
    cli.register_resolvers()
    with initialize_config_dir(str(cli.CONFIG_DIR), version_base="1.3"):
        return compose(name, list(choices), return_hydra_config=True)


def variants():
    """Every command, and what its groups may hold in place of the default."""
    for name in SCRIPTS:
        yield (name,)
        for group in {"diffusion", "optimizer", "quantizer"} & set(composed(name)):
            yield from ((name, f"{group}={path.stem}") for path in (cli.CONFIG_DIR / group).glob("*.yaml"))


VARIANTS = sorted(variants())


def test_the_readme_is_one_screen():
    assert len(README.read_text(encoding="utf-8")) <= 6000


def test_the_readme_leads_to_every_page():
    assert {target for target in pages.links(README) if target.endswith(".md")} == {
        page.relative_to(ROOT).as_posix() for page in PAGES if page != README
    }


@every_page
def test_links_hold(page):
    for target in pages.links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in pages.anchors(file), target


@every_page
def test_files_that_are_named_exist(page):
    rooms = "|".join(sorted({room.partition("/")[0] for room in rules.MAY_IMPORT} | {"config", "docs"}))
    text = page.read_text(encoding="utf-8")
    named = re.findall(rf"(?<![\w/.-])((?:{rooms})/[\w/.-]*\w\.(?:py|sh|yaml|md|png|j2))\b", text)
    named += re.findall(r"(?<![\w/.-])(\w+\.(?:py|sh))\b", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@every_page
def test_what_python_code_imports_exists(page):
    for code in pages.blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                assert all(hasattr(import_module(node.module), alias.name) for alias in node.names)


SETTINGS = [(page, table) for page in PAGES for table in pages.tables(page) if table.kind == "settings"]
DOCUMENTED = {setting.strip("`") for _, table in SETTINGS for setting, *_ in table.rows}


@pytest.mark.parametrize(("page", "table"), SETTINGS, ids=[f"{p.stem}-{'-'.join(t.names)}" for p, t in SETTINGS])
def test_settings_have_the_defaults_that_tables_say(page, table):
    choices = [name for name in table.names if "=" in name]
    for cfg in (composed(name, *choices) for name in table.names if name not in choices):
        for setting, default, _ in table.rows:
            key, written = setting.strip("`"), re.fullmatch(r"`([^`]+)`", default)
            if key in cfg.hydra.runtime.choices:
                assert default == f"`{cfg.hydra.runtime.choices[key]}`", key
                continue
            assert has(cfg, key), key
            if written:
                found = OmegaConf.create({"value": OmegaConf.select(cfg, key)})
                assert OmegaConf.to_container(found, resolve=True) == OmegaConf.create(f"value: {written[1]}"), key


def has(cfg, key):
    """Whether a config has a setting, be it without a value yet."""
    *parents, last = key.split(".")
    for parent in parents:
        cfg = cfg.get(parent) if OmegaConf.is_dict(cfg) and parent in cfg else None
    return OmegaConf.is_dict(cfg) and last in OmegaConf.to_container(cfg, resolve=False)


def users_choose(cfg):
    """The settings of a command's groups and its own, but for parts and values that follow from others."""

    def leaves(node, prefix):
        for key, value in node.items():
            path = f"{prefix}{key}"
            if isinstance(value, dict) and (path not in DOCUMENTED if prefix else key in GROUPS):
                yield from leaves(value, f"{path}.")
            elif not (isinstance(value, dict) or key in ("_target_", "_partial_") or "${" in str(value)):
                yield path

    return set(leaves(OmegaConf.to_container(cfg, resolve=False), "")) - {"hydra"}


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_every_setting_of_a_command_stands_in_a_table(variant):
    assert users_choose(composed(*variant)) - DOCUMENTED == set()


@every_page
def test_settings_in_the_text_exist(page):
    for plus, key in re.findall(r"`([+~]?)([a-z]\w*(?:\.\w+)+)=", pages.prose(page)):
        wanted = key.rpartition(".")[0] if plus else key
        assert any(has(composed(*variant), wanted) for variant in VARIANTS), key


def test_the_table_of_rooms_is_that_of_the_tests():
    assert documented_rules("rooms") == {room: set(others) for room, others in rules.MAY_IMPORT.items()}


def test_the_table_of_libraries_is_that_of_the_tests():
    every = {library: set(rooms) for libraries, rooms in rules.LIBRARIES.items() for library in libraries}
    assert documented_rules("libraries") == every


def documented_rules(name):
    """What a table of docs/architecture.md allows: row → rooms."""
    words = {"nothing": (), "all packages": (*rules.PACKAGES, *rules.DATA), "all of `pipeline`": rules.PIPELINE}
    (table,) = (t for t in pages.tables(ROOT / "docs" / "architecture.md") if (t.kind, t.names) == ("rules", (name,)))
    found = {}
    for rows, cell in table.rows:
        rooms = {room for part in cell.split(", ") for room in words.get(part, (part.strip("`"),))}
        found |= {row.strip("`"): rooms for row in rows.split(", ")}
    return found
