"""Who may know whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ABOVE = ["agentrl.records", "agentrl.runs", "agentrl.viewer", "agentrl.debug"]


def imported(folder: str) -> dict[str, set[str]]:
    """The dotted names that each file under a folder imports."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module)
        found[str(path.relative_to(ROOT))] = names
    assert found, f"no files under {folder}"
    return found


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("agentrl/sandbox", ["agentrl.agents", "agentrl.serving", "agentrl.learning", *ABOVE]),
        ("agentrl/serving", ["agentrl.agents", "agentrl.learning", *ABOVE]),
        ("agentrl/agents", ["agentrl.serving", "agentrl.learning", *ABOVE]),
        ("agentrl/learning", ["agentrl.serving", "agentrl.agents", *ABOVE]),
        ("agentrl", ["experiments", "bench", "rollout", "train"]),
        ("kernels", ["agentrl", "transformers", "accelerate", "vllm", "jaxtyping"]),
    ],
)
def test_directions(folder, forbidden):
    wrong = [
        (file, name)
        for file, names in imported(folder).items()
        for name in names
        for room in forbidden
        if name == room or name.startswith(f"{room}.")
    ]
    assert wrong == []


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
