"""What importing the package does, and what it offers."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hvsa_cvat

ROOT = Path(hvsa_cvat.__file__).parent
MODULES = [
    ".".join(("hvsa_cvat", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(ROOT.rglob("*.py"))
    if path.name != "__main__.py"
]

STATE = """
import ast, gc, importlib, json, locale, logging, multiprocessing, os, random, signal, socket, sys
import threading, time, warnings
from pathlib import Path

def state():
    import cv2, matplotlib, numpy, torch
    from PIL import Image
    return {
        "arguments": sys.argv,
        "floating point": numpy.geterr(),
        "collector": gc.get_threshold(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "device": str(torch.get_default_device()),
        "dtype": str(torch.get_default_dtype()),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "gradients": torch.is_grad_enabled(),
        "hook": repr(sys.excepthook),
        "image": Image.MAX_IMAGE_PIXELS,
        "locale": locale.setlocale(locale.LC_ALL),
        "logging": [logging.root.level, repr(logging.root.handlers)],
        "matmul": torch.get_float32_matmul_precision(),
        "matplotlib": repr(matplotlib.rcParams),
        "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic],
        "opencv threads": cv2.getNumThreads(),
        "print": repr(numpy.get_printoptions()),
        "random": [repr(random.getstate()), repr(numpy.random.get_state()),
                   torch.random.get_rng_state().tolist()],
        "recursion": sys.getrecursionlimit(),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "signals": [repr(signal.getsignal(number)) for number in signal.valid_signals()],
        "socket": socket.getdefaulttimeout(),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads(),
                    threading.active_count()],
        "warnings": repr(warnings.filters),
    }

# What the libraries set when they are imported is theirs: they come first.
root, modules = Path(sys.argv[1]), json.loads(sys.argv[2])
for path in sorted(root.rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in names:
            if name.split(".")[0] != "hvsa_cvat":
                importlib.import_module(name)
def changed():
    return sorted(name for name, value in state().items() if before[name] != value)

before = state()
for module in modules:
    importlib.import_module(module)
by_imports = changed()
import cv2
cv2.setNumThreads(cv2.getNumThreads() + 1)
print(json.dumps([by_imports, changed()]))
"""


def test_importing_every_module_changes_no_global_state() -> None:
    command = [sys.executable, "-c", STATE, str(ROOT), json.dumps(MODULES)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    by_imports, by_a_setting = json.loads(done.stdout)
    assert by_imports == []
    assert by_a_setting == ["opencv threads"], "the comparison sees a change"


def public_imports() -> dict[str, set[str]]:
    """The names that `hvsa_cvat/__init__.py` imports for type checkers, by module."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    found = (node for node in block.body if isinstance(node, ast.ImportFrom))
    return {str(node.module): {alias.name for alias in node.names} for node in found}


def test_exported_members_are_sorted_and_complete() -> None:
    exported = hvsa_cvat.__all__
    constants = [name for name in exported if name.isupper()]
    classes = [name for name in exported if name[0].isupper() and name not in constants]
    others = [name for name in exported if name not in constants + classes]
    assert exported == [*sorted(constants), *sorted(classes), *sorted(others)]
    assert set(exported) <= set(dir(hvsa_cvat))
    imported = set().union(*public_imports().values())
    assert set(exported) == imported | {"__version__"}


@pytest.mark.parametrize("module", sorted(public_imports()))
def test_exported_members_come_from_the_module_that_type_checkers_see(module: str) -> None:
    for name in public_imports()[module]:
        assert getattr(hvsa_cvat, name) is getattr(importlib.import_module(module), name)


def test_a_name_that_is_not_exported_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'hvsa_cvat' has no attribute 'Nothing'"):
        _ = hvsa_cvat.Nothing


def test_importing_the_package_imports_no_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import hvsa_cvat; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert {name.split(".")[0] for name in done.stdout.split()} & {"torch", "numpy", "cv2"} == set()


def test_type_hints_are_announced() -> None:
    assert (ROOT / "py.typed").is_file()


def test_the_example_of_the_documentation_runs() -> None:
    page = (ROOT.parent / "docs" / "api.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/api.md", "exec"), names)
    assert names["answers"].total_clicks > 0
    assert len(names["training"].losses) == 1
    assert np.isfinite(names["training"].losses).all()
    assert names["published"] == [f"{frame:06d}.png" for frame in range(6)]
    for name in re.findall(r"`(\w+)`", page.split("## One round")[0]):
        assert name in hvsa_cvat.__all__ or name in {"hvsa_cvat", "uint8"}, name


def test_ray_is_imported_where_it_is_chosen_and_nowhere_else() -> None:
    """`cli/sync.py` imports these modules in a function, when the settings say so."""
    chosen = {
        f"hvsa_cvat.agent.{name}" for name in ("ray_cluster", "ray_pool", "ray_task", "ray_team")
    }
    others = [name for name in MODULES if name not in chosen]
    code = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]): importlib.import_module(name)\n"
        "print('ray' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(others)], check=True, capture_output=True, text=True
    )
    assert done.stdout == "False\n"
