"""The house keeps its size, its words and its directions; ``python -m bench.house`` prints them."""

import statistics
from pathlib import Path

from bench import house


def test_no_name_has_a_retired_word():
    assert house.retired_names() == {}
    assert house.RETIRED & set(house.words_of("OpenDoor_of--places")) == {"door", "place"}


def test_no_class_name_exists_twice():
    assert house.repeated_classes() == {}


def test_functions_are_short():
    lines = sorted(house.function_lines().values())
    assert statistics.median(lines) <= 8
    assert lines[int(0.95 * len(lines))] <= 30
    assert lines[-1] <= 60


def test_the_core_is_an_evenings_reading():
    assert house.num_lines(Path("train.py")) <= 130
    assert house.core_lines() < 7000


def test_the_loop_and_its_update_are_a_page():
    lines = house.function_lines()
    page = [
        n for name, n in lines.items() if name.startswith(("train.py:train:", "train.py:update:"))
    ]
    assert len(page) == 2
    assert sum(page) <= 90


def test_adapters_of_environments_are_short():
    """Sixty lines of code."""
    files = sorted(Path("agentrl/environments").glob("*.py"))
    adapters = [path for path in files if "\nload = " in path.read_text(encoding="utf-8")]
    assert len(adapters) == 8
    lines = {path.stem: house.code_lines(path) for path in adapters}
    assert max(lines.values()) <= 60, lines


def test_settings_are_counted():
    """An issue that brings new flags raises this by exactly those."""
    assert len(house.settings()) == 70
