"""Checksums are of programs: comments and layout do not count, everything else does."""

from __future__ import annotations

import functools

import pytest

from mongo_ops.migrations.source import checksum, code_of, helpers, normal_form

BASE = '''
"""A docstring."""
from mongo_ops.migrations import Migration

def forward(ctx):
    """Another."""
    return ctx.db.users.count_documents({"a": 1})

migration = Migration(operations=[])
'''
SAME = [
    BASE.replace('"""A docstring."""', ""),
    BASE.replace('"""A docstring."""', '"""Quite\nanother."""'),
    BASE.replace("migration = ", "# why\nmigration = "),
    BASE.replace('{"a": 1}', "{\n        'a':1,\n    }"),
    BASE.replace("\n", "\n\n"),
    BASE.replace("    return", "        \n    return"),
    BASE.replace("operations=[]", "operations = [ ]").replace("1}", "0x1}"),
]
OTHER = [
    BASE.replace('"a"', '"b"'),
    BASE.replace("1}", "1.0}"),
    BASE.replace("1}", "True}"),
    BASE.replace('{"a": 1}', '{"a": "1"}'),
    BASE.replace('{"a": 1}', '{"a": b"1"}'),
    BASE.replace("ctx", "context"),
    BASE.replace("operations=[]", "operations=()"),
    BASE.replace("return ", ""),
    BASE + "x = 1\n",
    BASE.replace("import Migration", "import Migration as M, Migration"),
]


@pytest.mark.parametrize("text", SAME)
def test_comments_layout_and_docstrings_do_not_count(text):
    assert text != BASE
    assert normal_form(text) == normal_form(BASE)
    assert checksum(text, {}) == checksum(BASE, {})


@pytest.mark.parametrize("text", OTHER)
def test_whatever_else_is_changed_counts(text):
    assert checksum(text, {}) != checksum(BASE, {})


def test_field_order_in_a_dictionary_counts_because_documents_have_an_order():
    assert normal_form("x = {'a': 1, 'b': 2}") != normal_form("x = {'b': 2, 'a': 1}")


def test_local_modules_count_directly_or_not_and_others_do_not(tmp_path):
    path = tmp_path / "001_x.py"
    files = {
        "001_x.py": "from ._one import A\nfrom . import _two\nimport json\nfrom mongo_ops.migrations import Migration\n",
        "_one.py": "from .deep._three import C\nA = 1\n",
        "_two.py": "from ._one import A  # a circle\nB = 2\n",
        "deep/_three.py": "from .._two import B\nC = 3\n",
        "_unused.py": "D = 4\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    found = helpers(path, tmp_path)

    assert found == {name: files[name] for name in ("_one.py", "_two.py", "deep/_three.py")}
    base = checksum(files["001_x.py"], found)
    assert checksum(files["001_x.py"], found | {"_one.py": files["_one.py"] + "# a comment\n"}) == base
    assert checksum(files["001_x.py"], found | {"deep/_three.py": "C = 4\n"}) != base
    assert checksum(files["001_x.py"], {}) != base


def first(x):
    """One docstring."""
    return x + 1  # a comment


def second(x):
    return x + 2


def test_functions_are_known_by_their_source():
    one = code_of(first)
    assert "docstring" not in one
    assert "comment" not in one
    assert one != code_of(second)
    assert code_of(functools.partial(first, 1)) != code_of(functools.partial(first, 2))
    assert code_of(len) == "builtins.len"
