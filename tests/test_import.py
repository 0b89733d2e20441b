"""What importing the package does, and what it offers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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
root, modules, change = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
for path in sorted(root.rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in names:
            if name.split(".")[0] != "hvsa_cvat":
                importlib.import_module(name)
before = state()
for module in modules:
    importlib.import_module(module)
exec(change)
after = state()
print(json.dumps(sorted(name for name in before if before[name] != after[name])))
"""


def changed(change: str) -> Any:
    """Names of the global settings that importing every module, and then `change`, changes."""
    command = [sys.executable, "-c", STATE, str(ROOT), json.dumps(MODULES), change]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param("", [], id="imports alone"),
        pytest.param("import cv2; cv2.setNumThreads(1)", ["opencv threads"], id="the check sees"),
    ],
)
def test_importing_every_module_changes_no_global_state(change: str, expected: list[str]) -> None:
    assert changed(change) == expected
