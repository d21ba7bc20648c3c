"""The design, kept true: who imports whom, what stays light, how large things may grow, where the assets come from."""

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import styler

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, PAGE = ROOT / "styler", ROOT / "ui"

ORDER = (
    *("errors", "environment", "geometry", "regions.specs", "options", "config", "schedule"),
    *("images", "provenance", "library", "resample", "borders", "detail"),
    *("vgg.arch", "vgg.weights", "vgg.model", "vgg.conventions", "vgg.importers", "vgg.registry"),
    *("regions.areas", "regions.guided", "regions.networks", "regions.find", "regions.read", "regions.resolve"),
    *("save", "objective"),
    *("engine.color", "engine.sources", "engine.styles", "engine.placement", "engine.targets", "engine.optimizers"),
    *("engine.device", "engine.memory", "engine.resume.file", "engine.resume.scales", "engine.resume.state"),
    *("engine.result", "engine.budget", "engine.precision"),
    *("engine.threads", "engine.run", "engine.painter"),
    "batch",
    "workshop",
    "cli",
)
"""The layers, lowest first: a module imports only from layers above its own in this list."""

ORDER_WITHIN = {
    "images": ("detect", "exif", "chunks", "decode", "color", "tiff", "encode", "files", "read", "child"),
    "regions": ("specs", "areas", "guided", "networks", "find", "read", "resolve"),
    "objective": (
        *("moments", "wasserstein", "losses", "tiles", "parts", "sums", "candidates", "matching"),
        *("tiled_columns", "tiled_matching", "terms"),
    ),
    "engine.memory": ("measure", "estimate", "plan", "ladder", "host"),
    "batch": (
        *("discover", "manifest", "names", "plan", "sheets", "report"),
        *("stores", "states", "worker", "ray", "runner"),
    ),
}
"""The order of the modules inside the folders that count as one layer."""

WITHOUT_TORCH = (
    *("errors", "environment", "geometry", "regions.specs", "options", "config", "schedule"),
    *("images", "provenance", "library", "vgg.arch"),
)
TORCH = {"torch", "torchvision", "safetensors.torch"}
HEAVY = (
    *("torch", "torchvision", "numpy", "PIL", "gradio", "scipy", "pandas", "matplotlib"),
    *("safetensors", "pydantic", "rich", "cyclopts"),
)

TOP_LEVEL = {"pyproject.toml", "README.md", "LICENSE", "styler", "ui", "assets", "tests"}
BUILD_OUTPUT = {"build", "dist", "styler.egg-info", "__pycache__"}

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_MODULES, MAX_FILES = 500, 50, 14, 144
SHARED_NAMES = {"CONVENTIONS", "Refusal", "THUMBNAIL_SIDE", "main", "parse_value"}
"""Public names that two modules define, at most ten."""


def list_sources(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    """Return `vgg.model` for styler/vgg/model.py, and an empty name for styler itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def find_layer(name: str) -> str | None:
    """Return the entry of `ORDER` that a module belongs to: `images` for `images.decode`."""
    return next((entry for entry in ORDER if name == entry or name.startswith(f"{entry}.")), None)


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def walk(root: ast.AST, *, inside_functions: bool) -> Iterator[ast.AST]:
    """Yield the nodes of a module, without imports for type checkers and, unless asked for, without functions."""
    for child in ast.iter_child_nodes(root):
        if isinstance(child, ast.stmt) and is_type_checking(child):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        yield child
        yield from walk(child, inside_functions=inside_functions)


def list_imports(path: Path, *, inside_functions: bool = True) -> set[str]:
    """Return every module that a file imports, in full: `styler.images` for `from styler import images`."""
    names: set[str] = set()
    for node in walk(parse(path), inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name for name in members if is_module(name)} or {node.module}
    return names


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def select_own(names: set[str]) -> set[str]:
    return {name.removeprefix("styler.") for name in names if name.startswith("styler.")}


def select_packages(names: set[str], packages: set[str]) -> set[str]:
    return {name for name in names if any(name == package or name.startswith(f"{package}.") for package in packages)}


def list_functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_every_module_has_a_layer() -> None:
    for path in list_sources():
        name = module_name(path)
        is_folder = name in {"", "__main__", "vgg", "engine", "engine.resume", "regions"}
        assert is_folder or find_layer(name), f"{path} is in no layer"
    for entry in ORDER:
        assert is_module(f"styler.{entry}"), f"styler.{entry} does not exist"


def test_imports_go_one_way() -> None:
    wrong = set()
    for path in list_sources():
        layer = find_layer(module_name(path))
        if layer is None:
            continue
        for other in select_own(list_imports(path)):
            target = find_layer(other)
            if target is None or ORDER.index(target) > ORDER.index(layer):
                wrong.add((layer, other))
    assert wrong == set()


@pytest.mark.parametrize("folder", ORDER_WITHIN)
def test_imports_inside_a_folder_go_one_way(folder: str) -> None:
    order = ORDER_WITHIN[folder]
    home = PACKAGE.joinpath(*folder.split("."))
    assert {path.stem for path in list_sources(home)} == {"__init__", *order}
    for index, name in enumerate(order):
        imports = select_own(list_imports(home / f"{name}.py"))
        siblings = {other.removeprefix(f"{folder}.") for other in imports if other.startswith(f"{folder}.")}
        assert siblings <= set(order[:index]), name


def test_the_package_imports_from_modules_and_not_from_itself() -> None:
    """`from styler import Options` inside the package would take the long way round."""
    for path in list_sources():
        assert "styler" not in list_imports(path), path


@pytest.mark.parametrize("name", ["moments", "wasserstein", "losses"])
def test_losses_import_torch_alone(name: str) -> None:
    allowed = {"torch", "typing", "collections", "math", "styler.objective.moments"}
    names = list_imports(PACKAGE / "objective" / f"{name}.py")
    assert names == select_packages(names, allowed)


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_light_modules_never_import_torch(name: str) -> None:
    paths = [path for path in list_sources() if find_layer(module_name(path)) == name]
    assert paths
    for path in paths:
        assert select_packages(list_imports(path), TORCH) == set(), path


def test_rarely_needed_packages_are_imported_inside_functions_only() -> None:
    rare = {"torchvision", "gradio", "matplotlib", "pandas", "onnx", "onnxruntime", "ray", "pydantic"}
    for path in list_sources():
        assert select_packages(list_imports(path, inside_functions=False), rare) == set(), path


def test_the_command_line_imports_heavy_modules_inside_functions_only() -> None:
    heavy = {*TORCH, "numpy", "PIL", "gradio", "styler.engine", "styler.workshop", "ui"}
    outside = {
        path.name: select_packages(list_imports(path, inside_functions=False), heavy)
        for path in list_sources(PACKAGE / "cli")
    }
    assert outside
    assert {name: modules for name, modules in outside.items() if modules} == {}


def test_only_the_command_line_knows_the_page() -> None:
    for path in list_sources():
        if find_layer(module_name(path)) != "cli":
            assert select_packages(list_imports(path), {"ui", "gradio"}) == set(), path


def test_nobody_imports_assets_or_tests() -> None:
    for path in (*list_sources(), *list_sources(PAGE)):
        assert select_packages(list_imports(path), {"tests", "assets", "pytest"}) == set(), path


def run_fresh(code: str) -> set[str]:
    """Return the heavy packages that a new process has loaded after running some code."""
    script = f"import sys\n{code}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(process.stdout.splitlines()[-1].split())


def test_importing_styler_loads_nothing_heavy() -> None:
    assert run_fresh("import styler, styler.errors, styler.library") == set()
    code = "from styler import Options, StylerError; Options.of(preset='draft'); import styler.schedule"
    assert run_fresh(code) == set()


def test_images_are_read_without_torch() -> None:
    assert not run_fresh("import styler.images; from styler.images import child") & {"torch", "torchvision"}


def test_the_command_line_starts_without_torch() -> None:
    assert not run_fresh("import styler.cli.app") & {"torch", "torchvision", "gradio", "numpy", "PIL", "pydantic"}


def test_painting_loads_no_page_and_no_charts(tmp_path: Path) -> None:
    flags = f"--size 64 --iterations 1 --device cpu -q -o {tmp_path / 'out.png'}"
    code = f"from styler.cli import main; main('run astronaut starry-night {flags}'.split())"
    loaded = run_fresh(code)
    assert "torch" in loaded
    assert not loaded & {"torchvision", "gradio", "pandas", "matplotlib", "scipy", "pydantic"}


def test_the_public_names_are_there() -> None:
    names = {"stylize", "stream", "Painter", "Options", "Progress", "Result", "StylerError"}
    assert set(styler.__all__) == names
    assert names <= set(dir(styler))
    for name in names:
        assert getattr(styler, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'stylise'"):
        styler.stylise  # noqa: B018 - the lookup is the claim


@pytest.mark.parametrize("path", [*list_sources(), *list_sources(PAGE)], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    for function in list_functions(path):
        assert (function.end_lineno or 0) - function.lineno + 1 <= MAX_FUNCTION_LINES, function.name


def test_folders_stay_small() -> None:
    paths = [*list_sources(), *list_sources(PAGE)]
    assert len(paths) <= MAX_FILES
    for folder in {path.parent for path in paths}:
        assert len([*folder.glob("*.py")]) <= MAX_MODULES, folder


def list_public_names(path: Path) -> set[str]:
    """Return the public names that a module defines at its top level: functions, classes, constants and types."""
    names: set[str] = set()
    for node in parse(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            flat = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
            names |= {target.id for target in flat if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_a_public_name_means_one_thing() -> None:
    homes: dict[str, list[Path]] = defaultdict(list)
    for path in (*list_sources(), *list_sources(PAGE)):
        for name in list_public_names(path):
            homes[name].append(path.relative_to(ROOT))
    shared = {name: paths for name, paths in homes.items() if len(paths) > 1}
    assert {name: paths for name, paths in shared.items() if len(paths) > 2} == {}
    assert set(shared) == SHARED_NAMES
    assert len(shared) <= 10


def test_the_engine_is_silent_and_runs_anywhere() -> None:
    """No `print`, no exit but the command line's, and no device by name."""
    for path in list_sources():
        calls = [node.func for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
        names = {func.id for func in calls if isinstance(func, ast.Name)}
        methods = {func.attr for func in calls if isinstance(func, ast.Attribute)}
        assert "print" not in names, path
        assert "cuda" not in methods, path
        if find_layer(module_name(path)) != "cli" and path.name != "__main__.py":
            assert not names & {"exit", "quit"}, path
            assert "exit" not in methods, path


def is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type
    return caught is None or (isinstance(caught, ast.Name) and caught.id in {"Exception", "BaseException"})


def test_no_error_is_swallowed() -> None:
    for path in (*list_sources(), *list_sources(PAGE)):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ExceptHandler) and is_broad(node):
                assert not all(isinstance(statement, ast.Pass) for statement in node.body), path


def test_no_torch_setting_stays_changed_across_a_yield() -> None:
    """A web server steps a generator from several threads, and such settings belong to a thread."""
    for path in list_sources():
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.With) and any("torch." in ast.unparse(item.context_expr) for item in node.items):
                assert not any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node)), path


def test_the_top_level_holds_what_the_design_says() -> None:
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert names - BUILD_OUTPUT <= TOP_LEVEL


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = [path.parent for name in ("styler", "ui") for path in (ROOT / name).rglob("__init__.py")]
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(settings["packages"]) == packages | {"styler.assets"}


def test_only_tests_import_torchvision() -> None:
    for path in (*list_sources(), *list_sources(PAGE)):
        assert not re.search(r"^ *(import|from) torchvision", path.read_text(encoding="utf-8"), re.MULTILINE), path


def test_messages_name_packages_that_pip_finds() -> None:
    """Styler itself is not on a package index, so `pip install 'styler[heif]'` would fail."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = settings["optional-dependencies"].values()
    known = {re.split("[><=]", requirement)[0] for requirements in lists for requirement in requirements}
    named = set()
    for path in (*list_sources(), *list_sources(PAGE)):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for packages in re.findall("pip install ([^']+)", node.value):
                    named |= set(packages.split())
    assert {"pillow-heif", "pillow-jxl-plugin", "matplotlib", "onnxruntime", "ray"} <= named <= known


def list_assets() -> list[Path]:
    """Return every asset file but the scripts that make them."""
    folders = [ROOT / "assets" / name for name in ("contents", "styles", "weights")]
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    )


def list_credits() -> list[list[str]]:
    """Return the cells of every line of a table in the credits."""
    text = (ROOT / "assets" / "CREDITS.md").read_text(encoding="utf-8")
    lines = [line.strip().strip("|") for line in text.splitlines() if line.strip().startswith("|")]
    return [[cell.strip().strip("`") for cell in line.split("|")] for line in lines]


@pytest.mark.parametrize("path", list_assets(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_asset_is_credited_with_its_hash(path: Path) -> None:
    rows = [row for row in list_credits() if any(Path(cell).name == path.name for cell in row)]
    assert len(rows) == 1
    assert hashlib.sha256(path.read_bytes()).hexdigest() in rows[0]
    assert all(rows[0])  # author, source and license too


def test_every_credit_belongs_to_an_asset() -> None:
    names = {path.name for path in list_assets()}
    credited = [row for row in list_credits() if any(re.fullmatch("[0-9a-f]{64}", cell) for cell in row)]
    assert len(credited) == len(names)
    assert {Path(row[0]).name for row in credited} == names
