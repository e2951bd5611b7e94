"""House: lines a room, lines a function, leaf settings, and names; ``python -m bench.house``.

The product is every tracked Python, JavaScript and CSS file outside tests/ and bench/.
"""

import ast
import dataclasses
import io
import re
import statistics
import subprocess
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CORE = (
    *("train.py", "rollout.py", "agentrl/types.py", "agentrl/config.py", "kernels/"),
    *("agentrl/algorithms/", "agentrl/learning/", "agentrl/agents/"),
)
RETIRED = {
    *("door", "seat", "drawing", "past", "lent", "lending", "forwarded", "grounds", "room"),
    *("piece", "place", "growing", "served", "overrun"),
}
"""Words that no module, class, function, parameter or flag bears any more: docs/glossary.md."""


def product() -> list[Path]:
    """The files of the product, from the root."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    paths = [Path(line) for line in listed.splitlines()]
    code = [p for p in paths if p.suffix in (".py", ".js", ".css") and (ROOT / p).is_file()]
    return [p for p in code if p.parts[0] not in ("tests", "bench") and "vendor" not in p.parts]


def num_lines(path: Path) -> int:
    return len((ROOT / path).read_text(encoding="utf-8").splitlines())


def code_lines(path: Path) -> int:
    """Lines that are not blank, of a docstring or of a comment."""
    text = (ROOT / path).read_text(encoding="utf-8")
    told = [
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    described = {line for one in told for line in range(one.lineno, one.end_lineno + 1)}
    kinds = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in (*kinds, tokenize.ENDMARKER)
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines - described)


def rooms() -> dict[str, int]:
    """Lines by room: a package of agentrl, or a folder of the root."""
    lines: Counter[str] = Counter()
    for path in product():
        depth = 2 if path.parts[0] == "agentrl" and len(path.parts) > 2 else 1
        lines["/".join(path.parts[:depth]) if len(path.parts) > 1 else "./"] += num_lines(path)
    return dict(lines.most_common())


def core_lines() -> int:
    return sum(num_lines(path) for path in product() if str(path).startswith(CORE))


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in product():
        if path.suffix == ".py":
            yield path, ast.parse((ROOT / path).read_text(encoding="utf-8"))


def function_lines() -> dict[str, int]:
    """Lines of each function, by ``file:name:line``."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        f"{path}:{node.name}:{node.lineno}": node.end_lineno - node.lineno + 1
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, kinds)
    }


def names() -> dict[str, list[str]]:
    """Modules, classes, functions, parameters and flags, and where each is."""
    found = defaultdict(list)
    for path, tree in trees():
        found[path.stem].append(f"{path}")
        for node in ast.walk(tree):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found[node.name].append(where)
            elif isinstance(node, ast.arg):
                found[node.arg].append(where)
            elif isinstance(node, ast.Constant) and re.fullmatch(r"--[a-z-]+", str(node.value)):
                found[node.value].append(where)
    for name in settings():
        found[name].append("agentrl/config.py")
    return dict(found)


def retired_names() -> dict[str, list[str]]:
    """The names in which a retired word still occurs."""
    return {name: where for name, where in names().items() if RETIRED & set(words_of(name))}


def words_of(name: str) -> list[str]:
    """
    >>> words_of("_OpenDoors"), words_of("--max-places")
    (['open', 'door'], ['max', 'place'])
    """
    spaced = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    return [
        word.rstrip("s") if word != "grounds" else word for word in re.findall("[a-z]+", spaced)
    ]


def repeated_classes() -> dict[str, list[str]]:
    """Classes of one name in several files; but for those that play another system's API."""
    found = defaultdict(set)
    for path, tree in trees():
        if not {"dialects", "ajet.py"} & {*path.parts}:
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    found[node.name].add(str(path))
    return {name: sorted(where) for name, where in found.items() if len(where) > 1}


def settings() -> list[str]:
    """The leaf settings of the core: every flag of a config, but an algorithm's own numbers."""
    from agentrl import config

    def leaves(kind: type, prefix: str = "") -> Iterator[str]:
        for field in dataclasses.fields(kind):
            inner = field.default_factory
            if field.name == "algorithm":
                continue
            if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                yield from leaves(inner, f"{prefix}{field.name}.")
            else:
                yield f"{prefix}{field.name}"

    return list(leaves(config.Config))


def main() -> None:
    for room, lines in rooms().items():
        print(f"{lines:6,}  {room}")
    print(f"{sum(rooms().values()):6,}  the product\n{core_lines():6,}  the core")
    lines = sorted(function_lines().values())
    print(
        f"functions: {len(lines)}, median {statistics.median(lines):g} lines, "
        f"95% at most {lines[int(0.95 * len(lines))]}, longest {lines[-1]}"
    )
    print(f"train.py: {num_lines(Path('train.py'))} lines; leaf settings: {len(settings())}")
    print(f"names with retired words: {sorted(retired_names())}")
    print(f"classes of one name: {sorted(repeated_classes())}")


if __name__ == "__main__":
    main()
