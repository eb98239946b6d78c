"""Finding and loading migration files, and one sentence for each file that is none."""

from __future__ import annotations

import pytest

from mongo_ops.errors import PlanError
from mongo_ops.migrations.discover import NAME, MigrationFileError, candidates, discover, load_source
from mongo_ops.migrations.model import Record, State

GOOD = '"""Does nothing yet, and says so."""\nfrom mongo_ops.migrations import Migration\nmigration = Migration(operations=[])\n'


@pytest.fixture
def write(tmp_path):
    def write(**files):
        for name, text in files.items():
            path = tmp_path / f"{name[1:]}.py"
            path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize("name", ["001_a", "0010_a", "999_a_b2_c", "1000_x1"])
def test_names_of_migrations(name):
    assert NAME.match(name)


@pytest.mark.parametrize(
    "name", ["1_a", "001", "001_", "001-a", "001_A", "001_a-b", "001__a", "001_a_", "a_001", "001_ä"]
)
def test_names_that_are_none(name):
    assert not NAME.match(name)


def test_files_are_found_in_order_of_their_numbers(write):
    folder = write(n010_b=GOOD, n002_a=GOOD, n1000_d=GOOD, n999_c=GOOD, n_helper="x = 1", n__init__="")
    (folder / "notes.txt").write_text("no")
    (folder / "deeper").mkdir()

    assert [file.name for file in discover(folder)] == ["002_a", "010_b", "999_c", "1000_d"]
    [first, *_] = discover(folder)
    assert (first.version, first.title, first.group) == ("002", "Does nothing yet, and says so.", "core")


BAD = [
    ("1_a", GOOD, "is not named like"),
    ("001_a", "x = (", "line 1"),
    ("001_a", "\n\nif True\n", "line 3: "),
    ("001_a", b"\xff\xfe\x00", "UTF-8"),
    ("001_a", "x = 1\x00", "line"),
    ("001_a", "raise KeyError('k')", "cannot be imported: KeyError"),
    ("001_a", "from ._gone import X", "cannot be imported: ModuleNotFoundError"),
    ("001_a", "x = 1", "must define `migration = "),
    ("001_a", "migration = 1", "must define `migration = "),
    ("001_a", GOOD.replace("operations=[]", "operation=[]"), "cannot be imported: TypeError"),
]


@pytest.mark.parametrize(("name", "text", "said"), BAD)
def test_a_file_that_is_none_says_why(write, name, text, said):
    with pytest.raises(MigrationFileError) as caught:
        discover(write(**{f"n{name}": text}))
    assert str(caught.value).startswith(f"{name}.py: ")
    assert said in str(caught.value)


def test_one_number_for_two_files_is_refused(write):
    with pytest.raises(MigrationFileError, match="001_b.py: has the same number as 001_a.py"):
        discover(write(n001_a=GOOD, n001_b=GOOD))
    with pytest.raises(MigrationFileError, match="same number"):
        discover(write(n001_b=GOOD, n0001_a=GOOD))


def test_no_files_and_no_folder(tmp_path):
    assert discover(tmp_path) == ()
    with pytest.raises(PlanError, match="does not exist"):
        candidates(tmp_path / "nowhere")


def test_helpers_are_read_again_and_folders_do_not_see_each_others(write, tmp_path):
    folder = write(
        n001_a=GOOD.replace("[]", "[], tags=(TAG,)").replace("from mongo", "from ._t import TAG\nfrom mongo")
    )
    other = tmp_path / "other"
    other.mkdir()
    (folder / "_t.py").write_text("TAG = 'core'\n")
    (other / "001_a.py").write_text((folder / "001_a.py").read_text())
    (other / "_t.py").write_text("TAG = 'advanced'\n")

    assert [file.group for file in (*discover(folder), *discover(other), *discover(folder))] == [
        "core",
        "advanced",
        "core",
    ]
    before = discover(folder)[0].checksum
    (folder / "_t.py").write_text("TAG = 'advanced'  \n")
    [again] = discover(folder)
    assert (again.group, again.checksum == before) == ("advanced", False)


def test_the_recorded_sources_load_like_the_file_did(write):
    folder = write(n001_a=GOOD.replace("from mongo", "from ._t import TAG\nfrom mongo"), n_t="TAG = 'core'\n")
    [file] = discover(folder)
    record = Record("001_a", State.APPLIED, file.checksum, source=file.source, helpers=file.helpers)

    again = load_source(record)

    assert (again.name, again.checksum, again.title) == (file.name, file.checksum, file.title)
    assert again.migration == file.migration
