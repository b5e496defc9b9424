"""docs/data.md words every rule of a report as the code does, says what becomes of the case, and has no other rule."""

import ast
import re
from functools import cache
from itertools import product

from tests import pages
from tests.pages import ROOT

RULE_AT = {"Problem": 2, "BadFileError": 1, "Note": 0, "refusing_damage": 1, "report": 1}  # which argument it is
MODULES = [path for room in ("scans", "prepare") for path in sorted((ROOT / "dataset" / room).glob("*.py"))]
ANY = "\0"  # what is told when it runs


@cache
def rules_of_code():
    """Every rule of a problem, `ANY` in place of numbers and names."""
    found = set()
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known = constants(tree, path)
        functions = [node for node in tree.body for node in ast.walk(node) if isinstance(node, ast.FunctionDef)]
        for function in functions:
            own = assigned(function)
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                name = getattr(call.func, "id", getattr(call.func, "attr", ""))
                if name in RULE_AT and len(call.args) > RULE_AT[name]:
                    found |= set(texts(call.args[RULE_AT[name]], known | own))
    return found


def constants(tree, path):
    """Values of a module's names, and of those it imports from others of these."""
    known = assigned(ast.Module(tree.body, []), top=True)
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)):
        source = ROOT / f"{(node.module or '').replace('.', '/')}.py"
        if source in MODULES and source != path:
            there = assigned(ast.parse(source.read_text(encoding="utf-8")), top=True)
            known |= {alias.asname or alias.name: there.get(alias.name, []) for alias in node.names}
    return known


def assigned(scope, top=False):
    """Name -> the values that it is given in a function, or at the top of a module."""
    values = {}
    for target, value in bindings(scope.body if top else ast.walk(scope)):
        is_one = isinstance(target, ast.Name)
        for name, one in [(target, value)] if is_one else zip(target.elts, getattr(value, "elts", ()), strict=False):
            values.setdefault(getattr(name, "id", ""), []).append(one)
    return values


def bindings(nodes):
    """Targets and their values: of assignments, and of loops over tables that stand in the code."""
    for node in nodes:
        if isinstance(node, ast.Assign):
            yield from ((target, node.value) for target in node.targets if isinstance(target, ast.Name | ast.Tuple))
        elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.target, ast.Tuple):
            yield from ((node.target, row) for row in getattr(node.iter, "elts", ()))


def texts(node, known):
    """What an expression may be, as text; nothing where that is none, as of an error that is passed on."""
    if isinstance(node, ast.Constant):
        return [node.value if isinstance(node.value, str) else ANY]
    if isinstance(node, ast.JoinedStr):
        parts = [texts(part, known) for part in node.values]
        return ["".join(one) for one in product(*parts)]
    if isinstance(node, ast.FormattedValue):
        constant = isinstance(node.value, ast.Name) and node.value.id.isupper()
        return (constant and texts(node.value, known)) or [ANY]
    if isinstance(node, ast.Name):
        return [text for value in known.get(node.id, []) for text in texts(value, known)]
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "format":
        return [re.sub(r"{[^}]*}", ANY, text) for text in texts(node.func.value, known)]
    return []


def documented():
    """Rule -> what becomes of the case and what to do."""
    (table,) = (t for t in pages.tables(ROOT / "docs" / "data.md") if (t.kind, t.names) == ("rules", ("report",)))
    return {rule: rest for row, rest in table.rows for rule in row.split("<br>")}


def fits(rule, text):
    return re.fullmatch(".+".join(map(re.escape, rule.split(ANY))), text)


def test_rules_of_every_kind_are_found_in_the_code():
    rules = rules_of_code()
    assert {"a NIfTI file is whole", "air lies around the body", "capitals do not tell patients apart"} <= rules
    assert len(rules) > 60
    assert not any(rule.strip(ANY) == "" for rule in rules)


def test_every_rule_of_the_code_stands_in_the_docs():
    told = documented()
    assert [rule for rule in sorted(rules_of_code()) if not any(fits(rule, text) for text in told)] == []


def test_the_docs_name_no_rule_that_the_code_has_not():
    rules = rules_of_code()
    assert [text for text in documented() if not any(fits(rule, text) for rule in rules)] == []


def test_every_rule_says_what_becomes_of_the_case_and_what_to_do():
    words = r"(left out|all of them left out|an \[identity\]\(.*\) is left out|reported|a note)"
    for rule, rest in documented().items():
        assert re.match(words, rest), rule
        assert re.search(r"[;,:.] ", rest), rule
