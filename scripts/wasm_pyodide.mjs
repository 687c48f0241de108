// The host that scripts/wasm.py starts under Node: FOLDER {"mounts": {inside: here}, "program": name} ARGUMENT...
// Runs /program/NAME in Pyodide with NumPy, the packages of /site on its path.

import path from "node:path";
import { pathToFileURL } from "node:url";

const [folder, told, ...args] = process.argv.slice(2);
const { mounts, program } = JSON.parse(told);
const home = path.join(folder, "node_modules", "pyodide");
const { loadPyodide } = await import(pathToFileURL(path.join(home, "pyodide.mjs")));

const python = await loadPyodide({
  env: { HOME: "/", PYTHONDONTWRITEBYTECODE: "1" },
  stdout: (line) => process.stdout.write(line + "\n"),
  stderr: (line) => process.stderr.write(line + "\n"),
});
await python.loadPackage("numpy", { messageCallback: () => {} });
for (const [inside, root] of Object.entries(mounts)) {
  python.FS.mkdirTree(inside);
  python.FS.mount(python.FS.filesystems.NODEFS, { root }, inside);
}
python.globals.set("_arguments", python.toPy([`/program/${program}`, ...args]));
try {
  await python.runPythonAsync(`
import runpy, sys
sys.path.insert(0, "/site")
sys.argv = list(_arguments)
runpy.run_path(sys.argv[0], run_name="__main__")
`);
} catch (error) {
  process.stderr.write(`${error}\n`);
  process.exitCode = 1;
}
