"""What is run when: no test is the soak's alone, and in CI none is skipped."""

import os
import re
import subprocess
import sys
import threading
import time

import pytest

from tests.support import skips
from tests.support.alone import turn
from tests.support.checkout import ROOT
from tests.support.soak import Table
from tests.support.tiers import COLLECTED

TEST = """
import pytest

def test_nothing_here():
    pytest.skip("there is no such thing here")

@pytest.mark.skipif(True, reason="there is none, either")
def test_nor_here():
    pass

@pytest.mark.xfail(reason="this fails, as it should")
def test_as_expected():
    assert False

@pytest.mark.gpu
def test_on_a_gpu():
    pytest.skip("there is no GPU here")
"""


def listed() -> set[str]:
    """The test functions that tests/README.md names as large and small ones of one thing."""
    text = (ROOT / "tests" / "README.md").read_text()
    return set(re.findall(r"^\| `(test_\w+)` \|", text, re.MULTILINE))


def test_no_test_is_the_soaks_alone(request):
    """Of what was collected with this one: all there is, where the whole tier runs."""
    collected = request.config.stash[COLLECTED]
    large = {name: tiers for name, tiers in collected.items() if "soak" in tiers}
    assert {name: tiers for name, tiers in large.items() if "slow" not in tiers} == {}
    assert {name.partition("::")[2] for name in large} <= listed()


def test_what_is_listed_is_there():
    sources = "".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    assert {name for name in listed() if f"def {name}(" not in sources} == set()
    assert len(listed()) > 5


def test_no_test_module_imports_another():
    """What several share is a module of its own, named for what it is."""
    importing = re.compile(r"^ *(from|import) .*\btest_\w+", re.MULTILINE)
    assert [p.name for p in ROOT.glob("tests/**/*.py") if importing.search(p.read_text())] == []


@pytest.mark.parametrize(
    ("ci", "outcomes"),
    [
        ("", {"skipped": 3, "xfailed": 1}),
        # An error is a failure before the test itself.
        ("true", {"failed": 1, "error": 1, "skipped": 1, "xfailed": 1}),
    ],
)
def test_in_ci_a_skip_is_a_failure(tmp_path, ci, outcomes):
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", skips.__name__, "test_it.py"]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    counts = re.findall(r"(\d+) (\w+)", done.stdout.splitlines()[-1].partition(" in ")[0])
    assert {word: int(number) for number, word in counts} == outcomes
    if ci:
        assert "there is no such thing here: in CI a skip is a failure" in done.stdout


def test_a_test_that_compares_times_is_alone(tmp_path):
    """Who came after it waits, though the machine is shared when it comes."""
    began, noted = threading.Event(), []

    def others(name: str) -> None:
        with turn(tmp_path, alone=name == "alone"):
            noted.append(f"{name} begins")
            began.set()
            time.sleep(0.1)
            noted.append(f"{name} ends")

    threads = [threading.Thread(target=others, args=(n,)) for n in ("first", "alone", "last")]
    for thread in threads:
        thread.start()
        began.wait()
        time.sleep(0.03)
    for thread in threads:
        thread.join()
    assert noted == [
        f"{n} {what}" for n in ("first", "alone", "last") for what in ("begins", "ends")
    ]


def test_tests_share_the_machine(tmp_path):
    with turn(tmp_path, alone=False), turn(tmp_path, alone=False):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["machine", "queue"]


def test_the_soak_prints_a_table():
    table = Table()
    for nodeid, phase, outcome, seconds in [
        ("tests/test_x.py::test_two_steps[20]", "setup", "passed", 1.0),
        ("tests/test_x.py::test_two_steps[20]", "call", "failed", 2.4),
        ("tests/test_x.py::test_two_steps[20]", "teardown", "passed", 0.1),
        ("tests/test_x.py::test_another[5]", "call", "passed", 61.0),
    ]:
        table.pytest_runtest_logreport(
            pytest.TestReport(nodeid, ("", 0, ""), {}, outcome, None, phase, duration=seconds)
        )
    assert list(table.lines()) == [
        "| entry | size | seconds | outcome |",
        "|---|---|---|---|",
        "| x: two steps | 20 | 4 | failed |",
        "| x: another | 5 | 61 | passed |",
    ]
