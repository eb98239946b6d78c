"""The benchmarks' arithmetic: order, ratios, goals, tables, and programs that at least parse."""

import ast

import pytest
from benchmarks import programs, small
from benchmarks.measure import Goal, Notebook, Series, plus, ratio, rounds, turn
from benchmarks.server import difference
from benchmarks.table import Table


def test_everybody_takes_part_in_each_round_and_no_place_is_fixed():
    orders = [turn("abc", number) for number in range(6)]

    assert [sorted(order) for order in orders] == [["a", "b", "c"]] * 6
    assert {order[0] for order in orders} == {"a", "b", "c"}
    assert {order[-1] for order in orders} == {"a", "b", "c"}


def test_the_warm_up_round_does_not_count():
    seen = list(rounds(["a", "b"], 2))

    assert [(number, counts) for number, counts, _ in seen] == [(0, False)] * 2 + [(1, True)] * 2 + [(2, True)] * 2


def test_a_ratio_compares_each_round_with_itself():
    slow_second_round = ratio(Series((1.0, 10.0, 1.0)), Series((2.0, 20.0, 2.0)))

    assert slow_second_round.values == (0.5, 0.5, 0.5)
    assert plus(Series((1.0, 2.0)), Series((10.0, 20.0))).values == (11.0, 22.0)


def test_rounds_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        ratio(Series((1.0, 2.0)), Series((1.0,)))


def test_a_series_shows_its_median_and_both_ends():
    assert Series((3.0, 1.0, 2.0)).show("{:.1f}") == "2.0 (1.0 - 3.0)"


@pytest.mark.parametrize(
    ("sense", "bound", "measured", "verdict"),
    [
        ("at most", 2.0, 2.0, "met"),
        ("at most", 2.0, 2.1, "NOT met"),
        ("at least", 0.6, 0.6, "met"),
        ("at least", 0.6, 0.5, "NOT met"),
        ("under", 10.0, 10.0, "NOT met"),
        ("under", 10.0, 9.9, "met"),
    ],
)
def test_the_median_decides_whether_a_goal_is_met(sense, bound, measured, verdict):
    assert Goal("it", bound, sense, "s", Series((measured, 0.0, 99.0))).verdict == verdict


def test_what_was_not_measured_meets_no_goal():
    assert [goal.verdict for goal in small.goals(None)] == ["not measured"] * 2


def test_engine_goals_come_from_the_warm_rounds():
    book = Notebook()
    for name, seconds in ((small.OURS, 0.2), (small.BARE, 0.05)):
        book.write(name, "up seconds", seconds)

    assert [goal.verdict for goal in small.goals(book)] == ["met", "NOT met"]
    assert book.as_value() == {"mongo-ops": {"up seconds": [0.2]}, "bare commands": {"up seconds": [0.05]}}


def test_commands_are_counted_by_difference():
    assert difference({"find": 3, "insert": 1}, {"find": 5, "insert": 1, "update": 7}) == {"update": 7, "find": 2}


def test_a_table_is_aligned_markdown():
    text = Table("T", ["what", "n"], [["a", "10"], ["longer", "1"]]).text()

    assert text.splitlines()[2:] == ["| what   |  n |", "| ------ | -: |", "| a      | 10 |", "| longer |  1 |"]


@pytest.mark.parametrize(
    "write", [programs.mongo_ops, programs.pymongo_migrate, programs.mongodb_migrations, programs.mongomig]
)
def test_every_python_tool_gets_six_programs_that_parse(write, tmp_path):
    write(tmp_path)

    files = [file for file in tmp_path.rglob("*.py") if file.name != "env.py"]
    assert len(files) == len(programs.STEPS) == 6
    for file in files:
        ast.parse(file.read_text())
