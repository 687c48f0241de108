"""Make the site that `asv publish` writes open without a network and from a file: libraries and data beside it.

    python asv_bench/offline_site.py FOLDER

The page that asv ships takes jQuery, Flot, Bootstrap and three more from content networks, and reads its data by
requests that browsers refuse for files. The libraries come from npm instead, in the same versions, each held to the
digest that is written here; the data are put into one script, which answers the page's requests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

LIBRARIES: dict[str, tuple[str, str]] = {
    "jquery-3.3.1.min.js": ("jquery@3.3.1", "dist/jquery.min.js"),
    "jquery.flot.min.js": ("flot@0.8.3", "jquery.flot.js"),
    "jquery.flot.time.min.js": ("flot@0.8.3", "jquery.flot.time.js"),
    "jquery.flot.selection.min.js": ("flot@0.8.3", "jquery.flot.selection.js"),
    "jquery.flot.categories.min.js": ("flot@0.8.3", "jquery.flot.categories.js"),
    "jquery.flot.orderBars.js": ("flot-orderbars@1.0.0", "js/jquery.flot.orderBars.js"),
    "stupidtable.min.js": ("stupid-table-plugin@1.1.3", "stupidtable.js"),
    "md5.min.js": ("blueimp-md5@2.19.0", "js/md5.min.js"),
    "bootstrap.min.js": ("bootstrap@3.1.1", "dist/js/bootstrap.min.js"),
    "bootstrap.min.css": ("bootstrap@3.1.1", "dist/css/bootstrap.min.css"),
}
"""Name in the page's address → npm's package and the file in it."""

DIGESTS: dict[str, str] = {
    "jquery-3.3.1.min.js": "160a426ff2894252cd7cebbdd6d6b7da8fcd319c65b70468f10b6690c45d02ef",
    "jquery.flot.min.js": "b7b931f273c38b1277b9c6c1f4e05c4ec09885a487bddaf3279e2d7e49a38e12",
    "jquery.flot.time.min.js": "a582c832adc7138a6b05aaf61f16ebac274701f1be4afea77e739a1c34b9c41a",
    "jquery.flot.selection.min.js": "e6c85f6c1ebe4b4da29d8ae238c7c5060283f05f7ef054f6b91817d02c092918",
    "jquery.flot.categories.min.js": "6e81664b28ea795c734906f4aa15614640a75ac7fbd399a7fb9084040698351a",
    "jquery.flot.orderBars.js": "39735b4f46f96ff4e082572401f47c55a2767b366fd1d1e821e44a8d830a12bf",
    "stupidtable.min.js": "e7b47c782ecb04f4cbca0cda2eee474b05d48070d35844288fc750ca37248f39",
    "md5.min.js": "64d7ded388c562e4bde9e58ce205e5fa01b9734fcd434d496eb7b4fbfe9b927d",
    "bootstrap.min.js": "898d05a17f2cfc5120ddcdba47a885c378c0b466f30f0700e502757e24b403a1",
    "bootstrap.min.css": "e9503448692b738dd260fbd7f7cabf2e11f09b600fa97e6eb3a56eba5b1a7e9b",
}
"""The SHA-256 of each."""

REMOTE = re.compile(r'(src|href)="https://[^"]*/([^"/]+)" integrity="[^"]*"[^>]*?(?: onerror="[^"]*")?>')
ANSWERS = """// Written by asv_bench/offline_site.py: the page's data, and what answers its requests for them.
(function () {
    var files = %s;
    $.ajaxTransport("+json", function (options) {
        var path = decodeURIComponent(options.url.split("?")[0]);
        if (!(path in files)) { return; }
        return {
            send: function (headers, complete) {
                setTimeout(function () { complete(200, "OK", {json: files[path]}); }, 0);
            },
            abort: function () {}
        };
    });
})();
"""

Fetch = Callable[[str, Path], Path]


def packed(package: str, folder: Path) -> Path:
    """The archive of a package, from npm.

    Raises:
        SystemExit: npm is missing, or does not get it.
    """
    try:
        done = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise SystemExit("npm is not installed: the site needs it once, to hold its libraries by itself") from error
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"npm pack {package} gave {error.returncode}: {error.stderr.strip()[-200:]}") from error
    return folder / done.stdout.split()[-1]


def library(name: str, archive: Path) -> bytes:
    """The file of that name, out of its package's archive.

    Raises:
        SystemExit: its digest is not the one that is written here.
    """
    (package, inside), digest = LIBRARIES[name], DIGESTS[name]
    with tarfile.open(archive) as files:
        member = files.extractfile(f"package/{inside}")
        if member is None:
            raise SystemExit(f"{package} has no file {inside}; look for where it went")
        data = member.read()
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise SystemExit(f"{package}, {inside}: SHA-256 is {found}, not {digest}; do not use it")
    return data


def beside(page: str) -> tuple[str, list[str]]:
    """The page with its libraries beside it, and their names.

    Raises:
        SystemExit: a library that is not known here, or something else that comes from the network.
    """
    names = [name for _, name in REMOTE.findall(page)]
    unknown = [name for name in names if name not in LIBRARIES]
    if unknown or not names:
        raise SystemExit(
            f"the page of this asv takes {', '.join(unknown) or 'nothing'} from the network: see LIBRARIES"
        )
    page = REMOTE.sub(lambda found: f'{found[1]}="vendor/{found[2]}">', page)
    left = re.findall(r'(?:<script[^>]*src|<link[^>]*href)="(https?://[^"]*)"', page)
    if left:
        raise SystemExit(f"the page still takes {', '.join(left)} from the network: see REMOTE")
    first = page.index('<script language="javascript" type="text/javascript"\n            src="asv.js">')
    return page[:first] + '<script src="answers.js"></script>\n    ' + page[first:], names


def data(folder: Path) -> str:
    """The script with every JSON file of the site, by its path."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.json"))}
    files = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items()}
    return ANSWERS % json.dumps(files).replace("</", "<\\/")


def make(folder: Path, fetch: Fetch = packed) -> None:
    """Change the site in that folder; once is enough, a second time changes nothing."""
    index = folder / "index.html"
    if not index.exists():
        raise SystemExit(f"{folder} has no index.html: run `asv publish` first")
    (folder / "answers.js").write_text(data(folder), encoding="utf-8")
    page = index.read_text(encoding="utf-8")
    if 'src="answers.js"' in page:
        return
    page, names = beside(page)
    (folder / "vendor").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        archives = {package: fetch(package, Path(scratch)) for package in {LIBRARIES[name][0] for name in names}}
        for name in names:
            (folder / "vendor" / name).write_bytes(library(name, archives[LIBRARIES[name][0]]))
    index.write_text(page, encoding="utf-8")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    make(folder)
    print(f"open {folder / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
