"""The benchmarks' site without a network: libraries beside it, held to their digests, and requests answered."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from planted import mutated

ROOT = Path(__file__).parent.parent
REMOTE = (
    '    <script src="https://a.network/x/{name}" integrity="sha256-x=" crossorigin="anonymous" '
    'onerror="js_load_failure()"></script>\n'
)
STYLE = '    <link rel="stylesheet" href="https://b.network/{name}" integrity="sha256-y=" crossorigin="anonymous">\n'
OWN = '    <script language="javascript" type="text/javascript"\n            src="asv.js">\n    </script>\n'


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "asv_bench")
    return importlib.import_module("offline_site")


def page(site: ModuleType) -> str:
    tags = [(STYLE if name.endswith(".css") else REMOTE).format(name=name) for name in site.LIBRARIES]
    return f"<html><head>\n{''.join(tags)}{OWN}</head></html>\n"


def published(site: ModuleType, folder: Path) -> Path:
    (folder / "graphs" / "summary").mkdir(parents=True)
    (folder / "index.html").write_text(page(site))
    (folder / "info.json").write_text('{"timestamp": 1}')
    (folder / "graphs" / "summary" / "a (b).json").write_text('[[0, "</script>"]]')
    return folder


def archive(site: ModuleType, package: str, folder: Path) -> Path:
    """An archive in which every file of the package holds its own name."""
    path = folder / f"{package}.tgz"
    with tarfile.open(path, "w:gz") as files:
        for known, inside in site.LIBRARIES.values():
            if known == package:
                data = inside.encode()
                entry = tarfile.TarInfo(f"package/{inside}")
                entry.size = len(data)
                files.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture
def made(site: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    digests = {name: hashlib.sha256(inside.encode()).hexdigest() for name, (_, inside) in site.LIBRARIES.items()}
    monkeypatch.setattr(site, "DIGESTS", digests)
    folder = published(site, tmp_path / "html")
    site.make(folder, lambda package, scratch: archive(site, package, scratch))
    return folder


def test_nothing_comes_from_the_network(site: ModuleType, made: Path) -> None:
    text = (made / "index.html").read_text()
    assert "https://" not in text
    assert "integrity" not in text
    for name, (_, inside) in site.LIBRARIES.items():
        assert f'"vendor/{name}"' in text
        assert (made / "vendor" / name).read_text() == inside
    assert text.index("jquery-3.3.1.min.js") < text.index("answers.js") < text.index('src="asv.js"')


def test_a_second_time_changes_nothing_but_the_data(site: ModuleType, made: Path) -> None:
    before = (made / "index.html").read_text()
    (made / "info.json").write_text('{"timestamp": 2}')
    site.make(made, lambda package, scratch: pytest.fail("fetched again"))
    assert (made / "index.html").read_text() == before
    assert '"timestamp": 2' in (made / "answers.js").read_text()


def test_the_data_are_every_json_file_s_by_path(made: Path) -> None:
    text = (made / "answers.js").read_text()
    assert "</script>" not in text  # in a page it would end the script
    files = json.loads(text.split("var files = ")[1].split(";\n    $.ajax")[0].replace("<\\/", "</"))
    assert files == {"graphs/summary/a (b).json": [[0, "</script>"]], "info.json": {"timestamp": 1}}


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_requests_are_answered(made: Path) -> None:
    script = """
        var transport;
        var $ = {ajaxTransport: function (kind, make) { transport = make; }};
        %s
        transport({url: "graphs/summary/a%%20(b).json?timestamp=1"}).send({}, function (status, text, found) {
            console.log(status, JSON.stringify(found.json));
        });
        console.log(transport({url: "no/such.json"}) === undefined);
    """ % (made / "answers.js").read_text()  # noqa: UP031  braces are JavaScript's
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["true", '200 [[0,"</script>"]]']


def test_another_file_than_the_known_one_is_refused(site: ModuleType, tmp_path: Path) -> None:
    folder = published(site, tmp_path / "html")
    with pytest.raises(SystemExit, match=r"SHA-256 is .* not .*; do not use it"):
        site.make(folder, lambda package, scratch: archive(site, package, scratch))
    assert "https://" in (folder / "index.html").read_text()


def test_a_digest_that_is_not_looked_at_is_found(site: ModuleType, tmp_path: Path) -> None:
    wrong = mutated(site, "    if found != digest:\n", "    if False:\n")
    folder = published(site, tmp_path / "html")
    wrong.make(folder, lambda package, scratch: archive(site, package, scratch))  # no one refuses it


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("jquery.flot.min.js", "other.min.js", r"takes other\.min\.js from the network: see LIBRARIES"),
        ("</head>", '<script src="https://c.network/d.js"></script></head>', "still takes https://c.network/d.js"),
    ],
)
def test_what_is_not_known_is_refused(site: ModuleType, old: str, new: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        site.beside(page(site).replace(old, new))


def test_a_folder_without_a_page_is_refused(site: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no index\.html: run `asv publish` first"):
        site.make(tmp_path)


def test_npm_that_is_not_there_is_one_line(site: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="npm is not installed"):
        site.packed("jquery@3.3.1", tmp_path)
