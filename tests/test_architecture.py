"""The house's structure: which part may import which, and what no file may do. Each check is shown to fail."""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BELOW_OPS = {"interface", "plain", "numerics", "storage"}
BELOW_RUNTIME = BELOW_OPS | {"registry", "ops", "models", "text", "files"}
BELOW_CLI = BELOW_RUNTIME | {"runtime", "audit", "conformance", "compress"}
MAY_IMPORT: dict[str, set[str]] = {
    "interface": set(),
    "registry": {"interface"},
    "plain": set(),
    "numerics": {"interface", "plain"},
    "storage": {"interface", "plain", "numerics"},
    "backends": BELOW_OPS,
    "text": {"interface"},
    "files": {"interface", "numerics", "storage"},
    "ops": BELOW_OPS,
    "models": BELOW_OPS | {"ops"},
    "audit": BELOW_RUNTIME,
    "compress": BELOW_RUNTIME,
    "conformance": BELOW_RUNTIME,
    "runtime": BELOW_RUNTIME | {"audit"},
    "cli": BELOW_CLI,
    "__main__": {"cli"},
    "demo": BELOW_CLI | {"cli", "golden"},
    "__init__": BELOW_CLI,
}
"""Part → the other parts that it may import. A part is a sub-package, or a module at the top of lepton_ref."""

EXTRAS: dict[str, set[str]] = {
    "lepton_ref/text/": {"tokenizers", "jinja2"},
    "lepton_ref/runtime/threads.py": {"threadpoolctl"},
    "lepton_ref/runtime/progress.py": {"rich"},
    "lepton_ref/cli": {"rich"},
    "lepton_ref/conformance/strategies.py": {"hypothesis"},
}
"""Path prefix → third-party packages that it may import, inside a function. NumPy may be imported anywhere."""

EAGER: dict[str, set[str]] = {"backends/numba_": {"numba", "llvmlite"}}
"""Path prefix → packages that it may import at its top: the file is itself imported by name, when it is asked for."""

EXACT_MATH = {
    *("math", "inf", "nan", "isfinite", "isinf", "isnan", "copysign", "frexp", "ldexp"),
    *("ceil", "floor", "trunc", "isqrt", "gcd", "lcm", "comb", "factorial", "prod"),
}
"""What `lepton_ref.plain` may use of math: exact on every machine. Its exp, log and sin are not."""

LONGER: dict[str, str] = {}
"""File of more than 300 lines → why it is not two files."""

DYNAMIC: dict[str, str] = {
    "lepton_ref/__init__.py": "its lazy names are the tops of the layers",
    "lepton_ref/text/parts.py": "one message for each missing extra; the names are literals, which `imports` reads",
}
"""File that may import by a name held in a string → why."""

BY_STANDARD: dict[tuple[str, str], str] = {
    ("backends/numpy_backend.py", "Namespace"): "the Array API standard says what its functions do",
}
"""(file, class) whose methods need no docstring → why."""

DATA_ABOUT_PACKAGES = ("importlib.metadata", "importlib.resources")
PRINTS = ("lepton_ref/cli", "lepton_ref/demo.py", "backends/numba_notice.py")
"""How the path of a file that prints begins."""
BANNED_MODULES = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
BANNED_CALLS = {"eval", "exec", "compile", "__import__"}

Check = Callable[[str, ast.Module], Iterator[str]]


def sources() -> dict[str, str]:
    """Path from the root → text, of every file that ships as library code."""
    paths = [*(ROOT / "lepton_ref").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(paths)}


def part(path: str) -> str:
    """`lepton_ref/ops/linear.py` → ops; `lepton_ref/cli_report.py` → cli; `backends/x.py` → backends."""
    pieces = path.removesuffix(".py").split("/")
    return pieces[0] if pieces[0] == "backends" else whole(pieces[1])


def whole(name: str) -> str:
    """The part that a module at the top belongs to: the command line is cli.py and the files cli_*.py."""
    return "cli" if name.startswith("cli_") else name


def imports(path: str, tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Yield (absolute dotted name, inside a function) of each import, by statement or by a literal name."""
    lazy = {id(node) for function in ast.walk(tree) if isinstance(function, _FUNCTIONS) for node in ast.walk(function)}
    package = ("lepton_ref/" + path if path.startswith("backends/") else path).split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module is not None else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "library"}:
            names = [str(word.value) for word in node.args[:1] if isinstance(word, ast.Constant)]
        else:
            continue
        for name in names:
            yield name, id(node) in lazy


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def one_way(path: str, tree: ast.Module) -> Iterator[str]:
    own = part(path)
    for name, _ in imports(path, tree):
        pieces = name.split(".")
        if pieces[0] != "lepton_ref":
            continue
        target = whole(pieces[1]) if len(pieces) > 1 else "__init__"
        if target == "__version__":
            continue
        if own not in MAY_IMPORT:
            yield f"{path}: {own} is not in the table of parts"
        elif target != own and target not in MAY_IMPORT[own]:
            yield f"{path}: {own} imports {target}"


def no_loose_folder(path: str, tree: ast.Module) -> Iterator[str]:
    for name, _ in imports(path, tree):
        if name.split(".")[0] in {"backends", "golden"}:
            yield f"{path}: imports {name}; the folder is lepton_ref.{name.split('.')[0]}"


def extras_lazy(path: str, tree: ast.Module) -> Iterator[str]:
    allowed = {name for prefix, names in EXTRAS.items() if path.startswith(prefix) for name in names}
    eager = {name for prefix, names in EAGER.items() if path.startswith(prefix) for name in names}
    for name, lazy in imports(path, tree):
        top = name.split(".")[0]
        if top in sys.stdlib_module_names or top in {"lepton_ref", "numpy", "backends", "golden"} | eager:
            continue
        if top not in allowed:
            yield f"{path}: imports {top}, which is no dependency of this file"
        elif not lazy:
            yield f"{path}: imports {top} when it is itself imported; move it into the function that needs it"


def plain_is_plain(path: str, tree: ast.Module) -> Iterator[str]:
    if not path.startswith("lepton_ref/plain/"):
        return
    for name, _ in imports(path, tree):
        pieces = name.split(".")
        if pieces[0] == "math" and pieces[-1] not in EXACT_MATH:
            yield f"{path}: imports {name}; import math, so that what is used of it can be checked"
        elif pieces[0] != "lepton_ref" and pieces[0] not in sys.stdlib_module_names:
            yield f"{path}: imports {name}; the specification has the standard library alone"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "math" and node.attr not in EXACT_MATH:
            yield f"{path}:{node.lineno}: uses math.{node.attr}, whose last bits are the C library's"


def no_dynamic_import(path: str, tree: ast.Module) -> Iterator[str]:
    if path in DYNAMIC:
        return
    for name, _ in imports(path, tree):
        if name.split(".")[0] in {"importlib", "runpy", "imp"} and not name.startswith(DATA_ABOUT_PACKAGES):
            yield f"{path}: imports {name}; write the import out so that it can be checked"


def no_code_from_data(path: str, tree: ast.Module) -> Iterator[str]:
    for name, _ in imports(path, tree):
        if name.split(".")[0] in BANNED_MODULES:
            yield f"{path}: imports {name}"
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        if called in BANNED_CALLS or called == "torch.load" or called.endswith(".read_pickle"):
            yield f"{path}:{call.lineno}: calls {called}"
        for keyword in call.keywords:
            if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False":
                yield f"{path}:{call.lineno}: {called} with allow_pickle={ast.unparse(keyword.value)}"


def documented(path: str, tree: ast.Module) -> Iterator[str]:
    if ast.get_docstring(tree) is None:
        yield f"{path}: no docstring"
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for owner in [tree, *(node for node in classes if (path, node.name) not in BY_STANDARD)]:
        for node in owner.body:
            public = isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_")
            if public and ast.get_docstring(node) is None:
                yield f"{path}:{node.lineno}: {node.name} has no docstring"


def no_print(path: str, tree: ast.Module) -> Iterator[str]:
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if ast.unparse(call.func) in {"print", "sys.stdout.write", "sys.stderr.write"} and not path.startswith(PRINTS):
            yield f"{path}:{call.lineno}: prints; return the text and let the command line print it"


def no_side_effect(path: str, tree: ast.Module) -> Iterator[str]:
    declarations = (*_FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    for node in tree.body:
        constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guard = isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "__name__ == '__main__'"}
        if not (isinstance(node, declarations) or constant or guard):
            yield f"{path}:{node.lineno}: a statement that runs on import"
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield f"{path}:{node.lineno}: global state: {', '.join(node.names)}"


def short(path: str, text: str) -> Iterator[str]:
    lines = text.count("\n")
    if lines > 300 and path not in LONGER:
        yield f"{path}: {lines} lines; 300 is the most that one page may have"


CHECKS: list[Check] = [
    one_way,
    no_loose_folder,
    extras_lazy,
    plain_is_plain,
    no_dynamic_import,
    no_code_from_data,
    documented,
    no_print,
    no_side_effect,
]

VIOLATIONS: list[tuple[Check, str, str]] = [
    (one_way, "lepton_ref/numerics/a.py", "from lepton_ref.storage import Weight"),
    (one_way, "lepton_ref/numerics/a.py", "def f():\n    import lepton_ref.storage.base"),
    (one_way, "lepton_ref/ops/a.py", "from lepton_ref import runtime"),
    (one_way, "lepton_ref/ops/a.py", "from ..models import program"),
    (one_way, "lepton_ref/ops/a.py", "from lepton_ref.backends.numpy_backend import NumpyBackend"),
    (one_way, "lepton_ref/cli.py", "import lepton_ref.backends.numpy_backend"),
    (one_way, "lepton_ref/runtime/a.py", "from lepton_ref.cli_report import facts"),
    (one_way, "lepton_ref/runtime/a.py", "import lepton_ref.golden"),
    (one_way, "lepton_ref/text/a.py", "from lepton_ref.files.gguf import read_gguf"),
    (one_way, "lepton_ref/files/a.py", "from lepton_ref.ops import linear"),
    (one_way, "lepton_ref/plain/a.py", "from lepton_ref.numerics import Precision"),
    (one_way, "lepton_ref/plain/a.py", "from lepton_ref.interface import Array"),
    (one_way, "lepton_ref/text/a.py", "from lepton_ref.plain.formats import FORMATS"),
    (one_way, "lepton_ref/interface.py", "from lepton_ref.numerics import Precision"),
    (one_way, "lepton_ref/unheard_of/a.py", "from lepton_ref.numerics import Precision"),
    (one_way, "backends/a.py", "from lepton_ref.ops import linear"),
    (one_way, "backends/a.py", "from ..ops import linear"),
    (no_loose_folder, "lepton_ref/ops/a.py", "import backends.numpy_backend"),
    (no_loose_folder, "lepton_ref/ops/a.py", "from golden import manifest"),
    (extras_lazy, "lepton_ref/ops/a.py", "def f():\n    import scipy"),
    (extras_lazy, "lepton_ref/text/a.py", "import tokenizers"),
    (extras_lazy, "lepton_ref/text/a.py", "from jinja2.sandbox import SandboxedEnvironment"),
    (extras_lazy, "lepton_ref/files/a.py", "def f():\n    from tokenizers import Tokenizer"),
    (extras_lazy, "lepton_ref/text/a.py", 'jinja2 = library("jinja2")'),
    (extras_lazy, "lepton_ref/text/a.py", 'def f(): return library("torch")'),
    (plain_is_plain, "lepton_ref/plain/a.py", "import numpy as np"),
    (plain_is_plain, "lepton_ref/plain/a.py", "def f():\n    from numpy import float64"),
    (plain_is_plain, "lepton_ref/plain/a.py", "import math\ndef f(x): return math.exp(x)"),
    (plain_is_plain, "lepton_ref/plain/a.py", "from math import sin"),
    (no_dynamic_import, "lepton_ref/ops/a.py", "from importlib import import_module"),
    (no_code_from_data, "lepton_ref/files/a.py", "import pickle"),
    (no_code_from_data, "lepton_ref/files/a.py", "def f(p):\n    from marshal import loads"),
    (no_code_from_data, "lepton_ref/files/a.py", "np.load(path, allow_pickle=True)"),
    (no_code_from_data, "lepton_ref/files/a.py", "np.load(path, allow_pickle=trusted)"),
    (no_code_from_data, "lepton_ref/files/a.py", "torch.load(path)"),
    (no_code_from_data, "lepton_ref/files/a.py", "eval(text)"),
    (documented, "lepton_ref/ops/a.py", '"""M."""\ndef linear(x): return x'),
    (documented, "lepton_ref/ops/a.py", '"""M."""\nclass A:\n    """A."""\n    def rows(self): return 1'),
    (documented, "lepton_ref/ops/a.py", "x = 1"),
    (no_print, "lepton_ref/ops/a.py", "def f():\n    print(1)"),
    (no_side_effect, "lepton_ref/ops/a.py", "np.seterr(all='ignore')"),
    (no_side_effect, "lepton_ref/ops/a.py", "def f():\n    global backend\n    backend = 1"),
]

HARMLESS: list[tuple[str, str]] = [
    ("lepton_ref/ops/a.py", '"""M."""\nfrom lepton_ref.storage.base import Weight\nfrom lepton_ref.ops.base import op'),
    ("lepton_ref/text/a.py", '"""M."""\ndef f():\n    """F."""\n    import tokenizers'),
    ("lepton_ref/plain/a.py", '"""M."""\nimport math\nfrom fractions import Fraction\nX = math.ldexp(1, 3)'),
    ("lepton_ref/numerics/a.py", '"""M."""\nimport numpy as np\nfrom lepton_ref.plain.formats import decode'),
    ("lepton_ref/registry.py", '"""M."""\nfrom importlib.metadata import entry_points'),
    ("lepton_ref/files/a.py", '"""M."""\nimport re\nX = re.compile("a")\nY = np.load(path, allow_pickle=False)'),
    ("lepton_ref/storage/a.py", '"""M."""\ndef _f(x): return x\ndef f():\n    """F."""\n    def inner(): ...'),
    ("backends/a.py", '"""M."""\nfrom lepton_ref.backends.numpy_backend import NumpyBackend'),
]


def dropped(path: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Compare):
            called = ast.unparse(node.value.func).split(".")[-1] if isinstance(node.value, ast.Call) else "a comparison"
            if called in {"array_equal", "array_equiv", "allclose", "isclose", "a comparison"}:
                yield f"{path}:{node.lineno}: drops the result of {called}"


def test_no_comparison_is_dropped() -> None:
    paths = [path for folder in ("lepton_ref", "backends", "golden", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert Path(__file__) in paths
    found = [message for path in paths for message in dropped(str(path), ast.parse(path.read_text(encoding="utf-8")))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["np.array_equal(a, b)", "def f():\n    xp.allclose(a, b)", "a == b", "isclose(a, b)"])
def test_a_dropped_comparison_is_found(text: str) -> None:
    assert list(dropped("tests/a.py", ast.parse(text)))
    assert not list(dropped("tests/a.py", ast.parse("assert np.array_equal(a, b)\nc = a == b\nf(a)")))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_library_keeps_the_rule(check: Check) -> None:
    files = sources()
    assert {"lepton_ref/__init__.py", "lepton_ref/ops/linear.py", "backends/numpy_backend.py"} <= set(files)
    found = [message for path, text in files.items() for message in check(path, ast.parse(text))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("check", "path", "text"), VIOLATIONS)
def test_the_check_finds_a_planted_violation(check: Check, path: str, text: str) -> None:
    assert list(check(path, ast.parse(text)))


@pytest.mark.parametrize(("path", "text"), HARMLESS)
def test_no_check_objects_to_what_is_allowed(path: str, text: str) -> None:
    assert not [message for check in CHECKS for message in check(path, ast.parse(text))]


def test_no_file_is_longer_than_a_page() -> None:
    files = sources()
    assert not [message for path, text in files.items() for message in short(path, text)]
    assert set(LONGER) | set(DYNAMIC) <= set(files), "an exception for a file that is gone"


def test_a_long_file_is_found() -> None:
    assert list(short("lepton_ref/a.py", "x = 1\n" * 301))
    assert not list(short("lepton_ref/a.py", "x = 1\n" * 300))


def test_every_part_of_the_library_is_in_the_table() -> None:
    assert {part(path) for path in sources()} <= set(MAY_IMPORT)


def test_the_table_has_no_cycle() -> None:
    settled: set[str] = set()
    while left := MAY_IMPORT.keys() - settled:
        ready = {name for name in left if MAY_IMPORT[name] <= settled | {"golden"}}
        assert ready, f"these import one another: {sorted(left)}"
        settled |= ready
