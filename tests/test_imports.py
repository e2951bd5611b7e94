"""Who may know whom: imports go downward only, and in no circle."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [
    {"agentrl.types", "agentrl.callables", "agentrl.hub", "agentrl.signals", "agentrl.printable"},
    {"agentrl.sandbox", "kernels"},
    {"agentrl.agents", "agentrl.algorithms"},
    {"agentrl.config", "agentrl.environments", "agentrl.ajet"},
    {"agentrl.cli", "agentrl.tasks", "agentrl.learning", "agentrl.serving"},
    {"agentrl.records"},
    {"agentrl.runs"},
    {"agentrl.viewer", "agentrl.debug"},
    {"rollout"},
    {"agentrl.workers", "agentrl.overlap"},
    {"train"},
    {"agentrl.tuner"},
]
"""From the ground up: each may import what is below it, and nothing beside it."""


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, with what is taken from them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def modules() -> dict[str, set[str]]:
    """Of every product module, what it imports."""
    files = [*ROOT.glob("agentrl/**/*.py"), *ROOT.glob("kernels/**/*.py")]
    files += [ROOT / "train.py", ROOT / "rollout.py"]
    found = {}
    for path in files:
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[dotted.removesuffix(".__init__")] = imports(path)
    assert len(found) > 80
    return found


def floor_of(module: str) -> int | None:
    rooms = [module, ".".join(module.split(".")[:2]), module.split(".")[0]]
    return next((i for i, floor in enumerate(FLOORS) if floor & set(rooms)), None)


def room_of(module: str) -> str:
    return ".".join(module.split(".")[: 2 if module.startswith("agentrl.") else 1])


def test_imports_go_downward():
    wrong = [
        (module, name)
        for module, names in modules().items()
        for name in names
        if floor_of(name) is not None
        and room_of(name) != room_of(module)
        and module != "agentrl"
        and floor_of(name) >= floor_of(module)
    ]
    assert wrong == []


def test_there_is_no_circle():
    known = modules()
    graph = {module: (names & set(known)) - {module} for module, names in known.items()}
    # A package's own page imports its parts, and they import each other, never the page.
    assert len(list(TopologicalSorter(graph).static_order())) == len(known)


@pytest.mark.parametrize(
    ("folder", "known"),
    [
        (
            "agentrl/algorithms",
            ("agentrl.algorithms", "agentrl.types", "agentrl.callables", "kernels.tree"),
        ),
        ("agentrl/sandbox", ("agentrl.sandbox",)),
        ("kernels", ("kernels",)),
    ],
)
def test_what_knows_nothing_of_the_rest(folder, known):
    ours = ("agentrl", "kernels", "experiments", "train", "rollout")
    foreign = {"transformers", "accelerate", "vllm", "jaxtyping"} if folder == "kernels" else set()
    for path in (ROOT / folder).rglob("*.py"):
        for name in imports(path):
            is_known = f"{name}.".startswith(tuple(f"{module}." for module in known))
            assert name.split(".")[0] not in ours or is_known, (path, name)
            assert name.split(".")[0] not in foreign, (path, name)


def test_the_product_knows_no_tests_and_no_experiments():
    wrong = {
        (module, name)
        for module, names in modules().items()
        for name in names
        if name.split(".")[0] in ("tests", "bench", "experiments")
    }
    assert wrong == set()


def test_the_pure_modules_stay_light():
    """Types, algorithms and packing run without any of the frameworks."""
    pure = ["types", "algorithms", "algorithms.named", "learning.packing"]
    code = (
        "import sys, importlib\n"
        f"for name in {['agentrl.' + name for name in pure]}: importlib.import_module(name)\n"
        "heavy = {'vllm', 'accelerate', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
