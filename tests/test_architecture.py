"""The layout shows the architecture: arrows point one way, and heavy libraries stay in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mm_balance"

LAYERS = [
    {
        "errors",
        "imports",
        "names",
        "seeding",
        "memory",
        "redaction",
        "folders",
        "stopping",
        "alive",
        "escaping",
        "input_kinds",
        "plugins",
    },
    {"types", "functional"},
    {"config"},
    {"data", "models"},
    {"methods"},
    {"engine", "figures", "serving"},
    {"tracking", "testing", "explorer"},
    {"workflow", "measuring", "integrations"},
    {"study", "reproduction"},
    {"report", "repair"},
    {"commands", "running"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ROOMS = {
    "mlflow": {"tracking"},
    "optuna": {"study"},
    "librosa": {"data"},
    "soundfile": {"data"},
    "av": {"data"},
    "matplotlib": {"figures"},
    "pandas": {"tracking", "explorer", "report"},
    "sklearn": {"functional"},
    "scipy": {"functional"},
    "lightning": {"integrations"},
    "transformers": {"integrations"},
    "accelerate": {"integrations"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{item.name}" for item in node.names}
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_and_libraries_stay_in_their_rooms(path):
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "mm_balance" and len(parts) > 1 and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= LEVEL[room(path)], f"{path.name} imports upwards: {name}"
        if parts[0] in ROOMS:
            assert room(path) in ROOMS[parts[0]], f"{name} does not belong in {room(path)}"


def test_every_room_has_a_level():
    rooms = {room(path) for path in MODULES if path.parent != PACKAGE} | {path.stem for path in PACKAGE.glob("*.py")}
    assert rooms - {"__init__", "presets"} <= set(LEVEL)


def test_configuration_and_commands_load_nothing_heavy_and_the_python_surface_no_mlflow_or_optuna():
    heavy = "('mlflow', 'optuna', 'matplotlib', 'torch', 'sklearn')"
    code = (
        f"import sys, mm_balance.config, mm_balance.commands; first = [name for name in {heavy} if name in sys.modules]\n"
        f"from mm_balance import *; print(first + [name for name in ('mlflow', 'optuna', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_loop_names_no_method():
    from mm_balance.methods import METHODS

    for path in (PACKAGE / "engine").glob("*.py"):
        text = path.read_text("utf-8")
        assert not [name for name in METHODS if f'"{name}"' in text], path.name
