"""How the code is laid out: small files and folders, each with a line on what it is, and imports that run one way."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "p2pz_ray"
FOLDERS = sorted(
    {path.parent for top in ("p2pz_ray", "jobs", "cluster", "configs") for path in (ROOT / top).rglob("*.*")}
)
CODE = [*PACKAGE.rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]
WRITTEN = (".py", ".md", ".html", ".css", ".js", ".yaml", ".toml")
"""What somebody reads: weights and pictures aren't."""
MOST_FILES, MOST_LINES = 20, 350
FLOORS = (
    "storage picture language perceptual hub errors amount look patience version",
    "collection editing",
    "config commit",
    "mini running student",
    "engines",
    "distill evaluation translation",
    "report export serving run",
    "demo jobs lab",
    "arguments cli",
)
"""What imports only from its own floor and from those above it in this list."""


def imported(file: Path) -> Iterator[Path]:
    """The files of this project that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            for many in (len(parts), len(parts) - 1):
                found = ROOT.joinpath(*parts[:many])
                module = found / "__init__.py" if found.is_dir() else found.with_suffix(".py")
                if parts[0] == "p2pz_ray" and module.is_file():
                    yield module
                    break


IMPORTS = {file: {other for other in imported(file) if other != file} for file in CODE}


def circle(arrows: Mapping[Path, Set[Path]]) -> list[Path]:
    """Some nodes that lead to one another in a circle; [] where there are none."""
    done: set[Path] = set()

    def walk(node: Path, way: list[Path]) -> list[Path]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node not in done:
            for other in sorted(arrows.get(node, ())):
                if found := walk(other, [*way, node]):
                    return found
            done.add(node)
        return []

    for node in sorted(arrows):
        if found := walk(node, []):
            return found
    return []


def rooms(place: Path) -> dict[Path, set[Path]]:
    """Who imports whom among a folder's own files and the folders in it, each as one."""
    arrows: dict[Path, set[Path]] = defaultdict(set)
    for file, others in IMPORTS.items():
        for other in others:
            if place in file.parents and place in other.parents:
                ends = [place / path.relative_to(place).parts[0] for path in (file, other)]
                if ends[0] != ends[1] and "__init__.py" not in (end.name for end in ends):
                    arrows[ends[0]].add(ends[1])
    return arrows


def test_no_file_imports_itself_by_way_of_others() -> None:
    named = {file: {other for other in others if other.name != "__init__.py"} for file, others in IMPORTS.items()}
    assert sum(map(len, named.values())) > 500
    assert circle(named) == []


@pytest.mark.parametrize("place", [path for path in FOLDERS if PACKAGE in (path, *path.parents)], ids=lambda p: p.name)
def test_no_folder_imports_itself_by_way_of_others(place: Path) -> None:
    assert circle(rooms(place)) == []


def test_imports_run_one_way() -> None:
    floor = {PACKAGE / name: at for at, names in enumerate(FLOORS) for name in names.split()}
    floor |= {path.with_suffix(".py"): at for path, at in floor.items()}
    arrows = [(file, other) for file, others in rooms(PACKAGE).items() for other in others]
    assert {path.name for arrow in arrows for path in arrow if path not in floor} == set(), "give it a floor above"
    assert [f"{file.name} → {other.name}" for file, other in arrows if floor[other] > floor[file]] == []


def test_the_method_imports_no_other_folder_and_no_ray() -> None:
    assert {other.name for other in rooms(PACKAGE)[PACKAGE / "editing"]} <= {"errors.py", "hub.py"}
    for file in (PACKAGE / "editing").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) ray\b", file.read_text(encoding="utf-8"), re.MULTILINE), file


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_is_taken_in_at_one_look(folder: Path) -> None:
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix in WRITTEN]
    assert len(files) <= MOST_FILES


def test_a_file_is_read_in_one_sitting() -> None:
    lines = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in CODE}
    assert {name: many for name, many in lines.items() if many > MOST_LINES} == {}


def test_each_file_and_each_package_says_in_its_first_line_what_it_is() -> None:
    silent = [
        str(file.relative_to(ROOT))
        for file in CODE
        if not re.match(r"\S.{8,}", ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "")
    ]
    assert silent == []


def test_no_file_holds_the_marks_of_a_merge() -> None:
    marks = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    texts = [path for top in ("p2pz_ray", "jobs", "tests", "cluster", "configs") for path in (ROOT / top).rglob("*")]
    texts += [path for path in ROOT.iterdir() if path.is_file()]
    assert [path for path in texts if path.suffix in WRITTEN and marks.search(path.read_text(encoding="utf-8"))] == []
