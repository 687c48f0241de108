"""What is shipped is what is here: sdist, wheel, a clean environment, an editable one, and what importing costs."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import lepton_ref

ROOT = Path(__file__).parent.parent
PACKAGE_FOLDERS = {"lepton_ref": "lepton_ref", "backends": "lepton_ref/backends", "golden": "lepton_ref/golden"}
EXTRAS = ("tokenizers", "jinja2", "rich", "numba", "cupy", "torch", "matplotlib", "threadpoolctl")
IMPORT_LIMIT_S = 0.030


def run(python: Path | str, code: str, *, path: Path | None = None) -> str:
    """Run code in an interpreter of its own, outside the checkout, `path` on its module path."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment = kept | ({} if path is None else {"PYTHONPATH": str(path)})
    done = subprocess.run([python, "-c", code], check=False, capture_output=True, text=True, cwd="/", env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def pip(python: Path, *arguments: str | Path, path: Path | None = None) -> None:
    """This environment's pip, working on another environment, with no index."""
    environment = os.environ | ({} if path is None else {"PYTHONPATH": str(path)})
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def bare_environment(folder: Path) -> tuple[Path, Path]:
    """A new environment, its site-packages empty: (its Python, its site-packages)."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    site = Path(run(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    assert list(site.iterdir()) == []
    return python, site


def borrowed(folder: Path, *patterns: str) -> Path:
    """A folder from which these installed packages, and no others, can be imported."""
    folder.mkdir()
    for pattern in patterns:
        for path in Path(np.__file__).parent.parent.glob(pattern):
            (folder / path.name).symlink_to(path)
    return folder


def expected_members(root: Path) -> set[str]:
    """The path inside the wheel of every file under the package folders, caches apart."""
    return {
        f"{target}/{path.relative_to(root / folder).as_posix()}"
        for folder, target in PACKAGE_FOLDERS.items()
        for path in (root / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source") / "lepton_ref"
    copy.mkdir()
    for folder in PACKAGE_FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(sdist, wheel); `build` makes the wheel from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def members(built: tuple[Path, Path]) -> set[str]:
    with zipfile.ZipFile(built[1]) as wheel:
        return set(wheel.namelist())


@pytest.fixture(scope="module")
def clean(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """An environment with the wheel alone: (Python, site-packages, a folder that offers NumPy alone)."""
    folder = tmp_path_factory.mktemp("clean")
    python, site = bare_environment(folder / "environment")
    pip(python, built[1])
    return python, site, borrowed(folder / "numpy_alone", "numpy*")


def test_the_wheel_holds_every_file_of_the_package(members: set[str]) -> None:
    assert {"lepton_ref/py.typed", "lepton_ref/backends/numpy_backend.py", "lepton_ref/golden/__init__.py"} <= members
    assert sorted(expected_members(ROOT) - members) == []


def test_a_forgotten_sub_package_or_data_file_is_found(source: Path, members: set[str], tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(source, tree)
    planted = ["lepton_ref/forgotten/__init__.py", "backends/forgotten_backend.py", "golden/forgotten.npz"]
    for name in planted:
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    assert expected_members(tree) - members == {
        "lepton_ref/forgotten/__init__.py",
        "lepton_ref/backends/forgotten_backend.py",
        "lepton_ref/golden/forgotten.npz",
    }


def test_the_sdist_can_be_built_from(built: tuple[Path, Path], source: Path) -> None:
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "PKG-INFO"} <= names
    wanted = {
        path.relative_to(source).as_posix() for folder in PACKAGE_FOLDERS for path in (source / folder).rglob("*.*")
    }
    assert {name for name in wanted if ".egg-info" not in name} <= names


def test_the_core_depends_on_numpy_alone(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(wheel.read(name))
    required = metadata.get_all("Requires-Dist") or []
    assert [line for line in required if "extra ==" not in line] == ["numpy>=2.0"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Version"] == lepton_ref.__version__


def test_site_packages_gains_lepton_ref_and_nothing_else(clean: tuple[Path, Path, Path]) -> None:
    _, site, _ = clean
    assert {path.name for path in site.iterdir()} == {"lepton_ref", f"lepton_ref-{lepton_ref.__version__}.dist-info"}


def test_every_module_of_the_wheel_imports_with_numpy_alone(clean: tuple[Path, Path, Path]) -> None:
    python, site, numpy_alone = clean
    code = """
import importlib, pkgutil, lepton_ref
def fail(name): raise ImportError(name)
names = [module.name for module in pkgutil.walk_packages(lepton_ref.__path__, "lepton_ref.", onerror=fail)]
names = [name for name in names if not name.startswith("lepton_ref.golden.") and not name.endswith("__main__")]
kernels = [name for name in names if name.startswith("lepton_ref.backends.numba_")]
names = [name for name in names if name not in kernels] + ["lepton_ref.backends.numba_backend"]
for name in names: importlib.import_module(name)
print(lepton_ref.__file__, *names)
"""
    file, *names = run(python, code, path=numpy_alone).split()
    assert Path(file).is_relative_to(site)
    assert {"lepton_ref.ops.linear", "lepton_ref.backends.numpy_backend", "lepton_ref.golden"} <= set(names)


def test_the_numpy_backend_resolves_in_a_clean_environment(clean: tuple[Path, Path, Path]) -> None:
    python, site, numpy_alone = clean
    code = """
import sys
from lepton_ref import registry
backend = registry.get("numpy")
print(*registry.names(), backend.name, sys.modules[type(backend).__module__].__file__)
"""
    *names, file = run(python, code, path=numpy_alone).split()
    assert names == ["numba", "numpy", "numpy"]
    assert Path(file) == site / "lepton_ref" / "backends" / "numpy_backend.py"


def test_a_backend_whose_library_is_absent_says_what_to_install(clean: tuple[Path, Path, Path]) -> None:
    python, _, numpy_alone = clean
    code = """
from lepton_ref import registry
try:
    registry.get("numba")
except ImportError as error:
    print(error)
"""
    assert run(python, code, path=numpy_alone).strip() == (
        "backend 'numba' needs Numba: pip install 'lepton-ref[numba]'"
    )


def test_the_command_is_installed(clean: tuple[Path, Path, Path]) -> None:
    python, _, numpy_alone = clean
    environment = {"PYTHONPATH": str(numpy_alone), "PATH": os.environ["PATH"]}
    command = [python.parent / "lepton-ref", "--help"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", env=environment)
    assert done.returncode == 0, done.stderr
    assert "lepton-ref" in done.stdout


def test_an_editable_install_reaches_the_mapped_folders(source: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(source, tree)
    python, site = bare_environment(tmp_path / "environment")
    setuptools = borrowed(tmp_path / "setuptools_alone", "setuptools*", "_distutils_hack", "pkg_resources")
    pip(python, "--no-build-isolation", "--editable", tree, path=setuptools)
    assert not (site / "lepton_ref").exists()
    code = """
import lepton_ref, lepton_ref.backends.numpy_backend as b, lepton_ref.golden as g, lepton_ref.registry as r
print(lepton_ref.__file__, b.__file__, g.__file__, r.get("numpy").name)
"""
    numpy_alone = borrowed(tmp_path / "numpy_alone", "numpy*")
    here = ("lepton_ref/__init__.py", "backends/numpy_backend.py", "golden/__init__.py")
    assert run(python, code, path=numpy_alone).split() == [*(str(tree / name) for name in here), "numpy"]


def import_seconds(statement: str, *, path: Path) -> float:
    """The least of seven: what the statement costs in a process that has imported NumPy."""
    code = f"import time, numpy; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return min(float(run(sys.executable, code, path=path)) for _ in range(7))


def test_importing_costs_at_most_30_ms_over_numpy() -> None:
    assert import_seconds("import lepton_ref", path=ROOT) <= IMPORT_LIMIT_S


def test_a_slow_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "slow_package.py").write_text(f"import time\ntime.sleep({IMPORT_LIMIT_S})\n")
    assert import_seconds("import slow_package", path=tmp_path) > IMPORT_LIMIT_S


def loaded(statement: str, *, path: Path) -> set[str]:
    """Which of NumPy and the extras are in memory after the statement."""
    code = f"import sys; {statement}; print(*[name for name in {('numpy', *EXTRAS)} if name in sys.modules])"
    return set(run(sys.executable, code, path=path).split())


def test_importing_loads_neither_numpy_nor_an_extra() -> None:
    assert loaded("import lepton_ref", path=ROOT) == set()


def test_every_public_name_resolves_without_an_extra() -> None:
    statement = "import lepton_ref; [getattr(lepton_ref, name) for name in lepton_ref.__all__]"
    assert loaded(statement, path=ROOT) == {"numpy"}


def test_an_extra_that_is_loaded_is_found() -> None:
    assert version("jinja2")
    assert "jinja2" in loaded("import jinja2, lepton_ref", path=ROOT)


def test_the_public_names_are_listed_and_no_other_resolves() -> None:
    assert set(lepton_ref.__all__) <= set(dir(lepton_ref))
    assert lepton_ref.numerics.__name__ == "lepton_ref.numerics"
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        lepton_ref.laod  # noqa: B018 the access is what is tested
