"""The design, kept true: who imports whom, what stays light, how large things grow, and where the assets come from."""

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import styler

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "styler"

ORDER = (
    *("errors", "environment", "geometry", "options", "config", "schedule"),
    *("images", "provenance", "library", "resample"),
    *("vgg.arch", "vgg.weights", "vgg.model", "vgg.conventions", "vgg.importers", "vgg.registry"),
    "save",
    *("engine.losses", "engine.color", "engine.objective", "engine.targets", "engine.optimizers", "engine.result"),
    *("engine.budget", "engine.device", "engine.run", "engine.painter"),
    "batch",
    "workshop",
    "cli",
)
"""The rows of the layout, lowest first: a module imports only from rows above its own."""

WITHOUT_TORCH = (
    *("errors", "environment", "geometry", "options", "config", "schedule"),
    *("images", "provenance", "library", "vgg.arch"),
)
TORCH = {"torch", "torchvision", "safetensors.torch"}
HEAVY = ("torch", "torchvision", "numpy", "PIL", "gradio", "scipy", "safetensors", "rich", "cyclopts")

TOP_LEVEL = {"pyproject.toml", "README.md", "LICENSE", "styler", "ui", "assets", "tests"}
MADE = {"build", "dist", "styler.egg-info", "__pycache__"}
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 500, 50


def sources(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module(path: Path) -> str:
    """`vgg.features` for styler/vgg/features.py; empty for styler itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def place(name: str) -> str | None:
    """The entry of `ORDER` that a module belongs to: `images` for `images.decode`."""
    return next((entry for entry in ORDER if name == entry or name.startswith(f"{entry}.")), None)


def is_for_types_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def nodes(root: ast.AST, *, inside_functions: bool) -> Iterator[ast.AST]:
    """All nodes of a module but those that are for types only; those inside functions if asked for."""
    for child in ast.iter_child_nodes(root):
        if isinstance(child, ast.stmt) and is_for_types_only(child):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        yield child
        yield from nodes(child, inside_functions=inside_functions)


def imported(path: Path, *, inside_functions: bool = True) -> set[str]:
    """Every module that a file imports, in full: `styler.images` for `from styler import images`."""
    found: set[str] = set()
    for node in nodes(tree(path), inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if exists(name)} or {node.module}
    return found


def exists(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def of_styler(names: set[str]) -> set[str]:
    return {name.removeprefix("styler.") for name in names if name.startswith("styler.")}


def of(names: set[str], packages: set[str]) -> set[str]:
    return {name for name in names if any(name == package or name.startswith(f"{package}.") for package in packages)}


def test_every_module_has_its_place_in_the_order() -> None:
    for path in sources():
        name = module(path)
        assert name in {"", "__main__", "vgg", "engine"} or place(name), f"{path} has no place in the order"
    for entry in ORDER:
        assert exists(f"styler.{entry}"), f"styler.{entry} is gone"


def test_imports_go_one_way() -> None:
    wrong = set()
    for path in sources():
        name = place(module(path))
        if name is None:
            continue
        for other in of_styler(imported(path)):
            target = place(other)
            if target is None or ORDER.index(target) > ORDER.index(name):
                wrong.add((name, other))
    assert wrong == set()


def test_what_the_package_imports_it_names_in_full() -> None:
    """`from styler import Options` inside the package would go the long way round."""
    for path in sources():
        assert "styler" not in imported(path), path


def test_losses_know_torch_alone() -> None:
    allowed = {"torch", "typing", "collections", "math"}
    names = imported(PACKAGE / "engine" / "losses.py")
    assert names == of(names, allowed)


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_only_reads_and_counts_never_imports_torch(name: str) -> None:
    found = [path for path in sources() if place(module(path)) == name]
    assert found
    for path in found:
        assert of(imported(path), TORCH) == set(), path


def test_torchvision_and_gradio_are_imported_inside_functions_only() -> None:
    for path in sources():
        assert of(imported(path, inside_functions=False), {"torchvision", "gradio"}) == set(), path


def test_the_command_line_imports_heavy_things_inside_functions_only() -> None:
    heavy = {
        *TORCH,
        "numpy",
        "PIL",
        "gradio",
        "styler.engine.painter",
        "styler.engine.targets",
        "styler.engine.device",
        "ui",
    }
    outside = {path.name: of(imported(path, inside_functions=False), heavy) for path in sources(PACKAGE / "cli")}
    assert outside
    # `outputs` itself is loaded inside a function
    assert {name: found for name, found in outside.items() if found} == {}


def test_only_the_command_line_knows_the_page() -> None:
    for path in sources():
        if place(module(path)) != "cli":
            assert of(imported(path), {"ui", "gradio"}) == set(), path


def test_assets_and_tests_are_imported_by_nobody() -> None:
    for path in (*sources(), *sources(ROOT / "ui")):
        assert of(imported(path), {"tests", "assets", "pytest"}) == set(), path


def fresh(code: str) -> set[str]:
    """Which heavy packages a new process has loaded after some code."""
    script = f"import sys\n{code}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_styler_loads_nothing_heavy() -> None:
    assert fresh("import styler, styler.errors, styler.library") == set()
    assert fresh("from styler import Options, StylerError; Options.of(preset='draft'); import styler.schedule") == set()


def test_pictures_are_read_without_torch() -> None:
    assert not fresh("import styler.images; from styler.images import child, files") & {"torch", "torchvision"}


def test_the_command_line_starts_without_torch() -> None:
    assert not fresh("import styler.cli.app") & {"torch", "torchvision", "gradio", "numpy", "PIL"}


def test_the_public_names_are_there() -> None:
    wanted = {"stylize", "stream", "Painter", "Options", "Progress", "Result", "StylerError"}
    assert set(styler.__all__) == wanted
    assert wanted <= set(dir(styler))
    for name in wanted:
        assert getattr(styler, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'stylise'"):
        styler.stylise  # noqa: B018 - the lookup is the claim


@pytest.mark.parametrize("path", [*sources(), *sources(ROOT / "ui")], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_OF_A_FILE
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.body[1].lineno if ast.get_docstring(node) and len(node.body) > 1 else node.lineno
            assert (node.end_lineno or 0) - start < LINES_OF_A_FUNCTION, node.name


def test_the_engine_is_silent_and_runs_anywhere() -> None:
    """No `print`, no exit but the command line's, and no device by name."""
    for path in sources():
        calls = [node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
        names = {func.id for func in calls if isinstance(func, ast.Name)}
        methods = {func.attr for func in calls if isinstance(func, ast.Attribute)}
        assert "print" not in names, path
        assert "cuda" not in methods, path
        if place(module(path)) != "cli" and path.name != "__main__.py":
            assert not names & {"exit", "quit"}, path
            assert "exit" not in methods, path


def is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type
    return caught is None or (isinstance(caught, ast.Name) and caught.id in {"Exception", "BaseException"})


def test_no_error_is_swallowed() -> None:
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler) and is_broad(node):
                assert not all(isinstance(statement, ast.Pass) for statement in node.body), path


def test_no_setting_of_torch_is_held_across_a_yield() -> None:
    """A web server steps a generator from several threads, and such settings are of a thread."""
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.With) and any("torch." in ast.unparse(item.context_expr) for item in node.items):
                assert not any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node)), path


def test_the_top_level_holds_what_the_design_says() -> None:
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found - MADE <= TOP_LEVEL


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = [path.parent for name in ("styler", "ui") for path in (ROOT / name).rglob("__init__.py")]
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(settings["packages"]) == found | {"styler.assets"}


def assets() -> list[Path]:
    """Every file that others made: all but the scripts."""
    folders = [ROOT / "assets" / name for name in ("contents", "styles", "weights")]
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    )


def rows() -> list[list[str]]:
    """The cells of every line of a table in the credits."""
    text = (ROOT / "assets" / "CREDITS.md").read_text(encoding="utf-8")
    lines = [line.strip().strip("|") for line in text.splitlines() if line.strip().startswith("|")]
    return [[cell.strip().strip("`") for cell in line.split("|")] for line in lines]


@pytest.mark.parametrize("path", assets(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_asset_is_credited_with_its_hash(path: Path) -> None:
    found = [row for row in rows() if any(Path(cell).name == path.name for cell in row)]
    assert len(found) == 1
    assert hashlib.sha256(path.read_bytes()).hexdigest() in found[0]
    assert all(found[0])  # author, source and licence too


def test_nothing_is_credited_that_is_not_there() -> None:
    names = {path.name for path in assets()}
    credited = [row for row in rows() if any(re.fullmatch("[0-9a-f]{64}", cell) for cell in row)]
    assert len(credited) == len(names)
    assert {Path(row[0]).name for row in credited} == names
