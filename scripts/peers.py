"""Measure lepton_ref beside llama.cpp, transformers and onnxruntime in one run, and write what docs/ shows of it.

    python scripts/peers.py                       write docs/peers.md, its plot and README's figures from the record
    python scripts/peers.py --measure [options]   measure, record in docs/peers.json, and write

`make peers` sets up the environments that the engines need and measures; an engine that cannot be had is named on the
page with the reason. Each engine has a process of its own (scripts/peers_worker.py) for each model and number of
threads; they are asked in turn (scripts/peers_rounds.py), and the others wait without work. What is measured is listed
in scripts/peers_tasks.py. Models are put together, or quantised, in the folder that --work names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import peers_page
from peers_machine import machine
from peers_process import Engine, NoEngineError, Worker, load
from peers_rounds import PATIENCE, SLOW, in_turn, settle
from peers_tasks import (
    ENGINES,
    MODELS,
    NUMPY,
    OPERATIONS,
    OPERATORS,
    PRECISION,
    READ,
    READING,
    SOURCE,
    STARTERS,
    TASKS,
    WORKING_SET,
    Model,
)
from readme_figures import package_folder

ROOT = Path(__file__).resolve().parent.parent
DECODE_SECONDS, PREFILL_SECONDS, CALL_SECONDS = 0.4, 0.3, 0.1
"""How long a sample is to take, as far as the numbers of tokens and repetitions allow."""
PARTS = ("operations", "models", "start")
Pythons = Mapping[str, str | None]
Ask = Callable[[], dict[str, Any]]


def default_work() -> Path:
    """The user's cache folder for models that are put together or quantised."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lepton_ref" / "peers"


def model_file(name: str, work: Path) -> Path:
    """The model's file in the work folder, made where it is missing."""
    model = MODELS[name]
    path = work / model.file
    if path.exists():
        return path
    beside = path.with_suffix(".partial.gguf")
    if model.packages:
        with beside.open("wb") as file:
            for package in model.packages:
                folder = package_folder(package)
                file.write(next(iter([*folder.glob("*.gguf"), *folder.glob("data/*.part*")])).read_bytes())
    else:
        source = str(model_file(SOURCE, work))
        command = ["quantize", source, str(beside), "--recipe", model.format, "--overwrite"]
        subprocess.run([sys.executable, "-m", "lepton_ref", *command], check=True, stdout=subprocess.DEVNULL)
    beside.replace(path)
    return path


def for_model(engine: Engine, model: Model) -> Engine:
    """The engine with the model's own precision where its options ask for that."""
    options = {key: model.precision if value == PRECISION else value for key, value in engine.options.items()}
    return replace(engine, options=options)


def asking(worker: Worker, question: Mapping[str, Any]) -> Ask:
    """A function that asks for a sample of a size that suits the engine, in seconds a token or a repetition."""
    ready = dict(question)
    first = worker.ask(**ready)
    if "error" not in first and first["wall"] < SLOW:
        first = worker.ask(**ready)
    if "error" in first:
        return lambda: first
    if "decode" in ready:
        a_token = first["seconds"] / ready["decode"]
        ready["decode"] = max(4, min(ready["decode"], round(DECODE_SECONDS / a_token)))
    else:
        target = PREFILL_SECONDS if "prefill" in ready else CALL_SECONDS
        ready["repeat"] = max(1, min(20, round(target / first["seconds"])))

    def ask() -> dict[str, Any]:
        sample = worker.ask(**ready)
        return sample if "error" in sample else sample | {"seconds": sample["seconds"] / ready.get("decode", 1)}

    return ask


class Run:
    """What a run is asked for, and its record as it grows."""

    def __init__(self, pythons: Pythons, work: Path, rounds: int, record: Path, patience: float) -> None:
        self.pythons = pythons
        self.patience = patience
        self.work = work
        self.rounds = rounds
        self.path = record
        self.record: dict[str, Any] = {
            "machine": machine(),
            "rounds": rounds,
            "versions": {},
            "missing": {},
            "models": {},
            "start": {},
            "operations": {},
        }

    def save(self) -> None:
        """Write the record as it is."""
        self.record["machine"]["load average after"] = os.getloadavg()[0]
        self.path.write_text(json.dumps(rounded(self.record), indent=1) + "\n", encoding="utf-8")

    def missing(self, name: str, reason: str) -> None:
        """Remember why an engine, or an operation, has no figure."""
        reasons = self.record["missing"].setdefault(name, [])
        if reason not in reasons:
            reasons.append(reason)

    def have(self, engine: Engine, path: str, threads: int, workers: dict[str, Worker]) -> None:
        """Put a worker with the engine into `workers`, or the reason into the record."""
        log = self.work / "peers.log"
        try:
            workers[engine.name], said = load(engine, self.pythons.get(engine.python), path, threads, log)
        except NoEngineError as error:
            self.missing(engine.name, str(error))
            say(f"  {engine.name}: {error}")
        else:
            self.record["versions"][engine.name] = said

    def measured(self, asks: Mapping[str, Ask], where: str) -> dict[str, Any]:
        """What `in_turn` finds; an engine that failed is named as missing, with where it did."""
        found = in_turn(asks, self.rounds, before=partial(settle, patience=self.patience))
        for name, entry in found.items():
            if "error" in entry:
                self.missing(name, f"{where}: {entry['error']}")
        return {name: entry for name, entry in found.items() if entry["clean"] or entry["dirty"]}

    def model(self, name: str, threads: int, engines: Iterable[Engine]) -> None:
        """All tasks of one model with so many threads."""
        model, path = MODELS[name], model_file(name, self.work)
        place = self.record["models"].setdefault(name, {"bytes": path.stat().st_size, "threads": {}})
        workers: dict[str, Worker] = {}
        try:
            self.have(replace(OPERATORS[NUMPY], name=READING), "", threads, workers)
            for engine in engines:
                if model.packages or not engine.shipped_only:
                    self.have(for_model(engine, model), str(path), threads, workers)
            for task in TASKS:
                say(f"{model.label}, {threads} threads, {task.label}")
                asks = {
                    engine: asking(worker, READ if engine == READING else task.question)
                    for engine, worker in workers.items()
                }
                found = self.measured(asks, f"{model.label}, {task.label}")
                for engine, entry in found.items():
                    if engine == READING:
                        entry["amount"] = WORKING_SET
                    else:
                        entry["tokens"] = task.tokens or 1
                place["threads"].setdefault(str(threads), {})[task.name] = found
                self.save()
        finally:
            for worker in workers.values():
                worker.close()

    def start(self, name: str, threads: int, engines: Iterable[Engine]) -> None:
        """From import to the first token behind a prompt of 16, each time in a new process; the first warms caches."""
        model, path, log = MODELS[name], str(model_file(name, self.work)), self.work / "peers.log"
        asks: dict[str, Ask] = {}
        for engine in engines:
            if engine.name not in STARTERS or engine.name in self.record["missing"]:
                continue
            chosen = for_model(engine, model)

            def ask(chosen: Engine = chosen) -> dict[str, Any]:
                worker = Worker(self.pythons.get(chosen.python), threads, log)
                options = dict(chosen.options)
                sample = worker.ask(
                    do="start", kind=chosen.kind, path=path, threads=threads, options=options, context=16
                )
                worker.close()
                return sample

            ask()
            asks[engine.name] = ask
        say(f"{model.label}, start")
        self.record["start"][name] = self.measured(asks, f"{model.label}, start")
        self.save()

    def operations(self, threads: int) -> None:
        """Kernels by themselves, and how fast memory is read, in turn."""
        workers: dict[str, Worker] = {}
        try:
            for engine in OPERATORS.values():
                self.have(engine, "", threads, workers)
            say(f"operations, {threads} threads")
            wanted = [operation for operation in OPERATIONS if operation.engine in workers]
            asks = {one.name: asking(workers[one.engine], one.question) for one in wanted}
            found = self.measured(asks, "operations")
            for operation in wanted:
                if operation.name in found:
                    found[operation.name]["amount"] = operation.weights or operation.work
            self.record["operations"][str(threads)] = found
            self.save()
        finally:
            for worker in workers.values():
                worker.close()


def rounded(value: Any) -> Any:
    """The same with every float to five digits: enough for a median, and short enough to be kept."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def say(line: str) -> None:
    """What is being done, at once."""
    print(line, file=sys.stderr, flush=True)


def found_python(given: str | None, *folders: str) -> str | None:
    """The interpreter that is named, or else the first of these environments' that is there."""
    there = [ROOT / folder / "bin" / "python" for folder in folders]
    return given or next((str(path) for path in there if path.exists()), None)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run the engines first")
    parser.add_argument("--llama-cpp", metavar="PYTHON", default=os.environ.get("LLAMA_CPP_PYTHON"))
    parser.add_argument("--torch", metavar="PYTHON", help="one with torch, transformers and gguf")
    parser.add_argument("--onnxruntime", metavar="PYTHON", help="one with onnx, onnxruntime and lepton_ref")
    parser.add_argument("--ours", metavar="PYTHON", default=sys.executable, help="one with lepton_ref and numba")
    parser.add_argument("--work", type=Path, default=default_work(), help="where models are put together")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds a sample waits for others to be idle")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS), metavar="MODEL")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="all, unless named")
    parser.add_argument("--engines", nargs="+", metavar="WORD", help="those whose name has one of these words in it")
    parser.add_argument("--record", type=Path, default=peers_page.RECORD, help="the JSON; pages are of docs/peers.json")
    args = parser.parse_args()
    if args.measure:
        args.work.mkdir(parents=True, exist_ok=True)
        pythons = {
            "llama_cpp": found_python(args.llama_cpp, ".venv-llama"),
            "torch": found_python(args.torch, ".venv-peers"),
            "onnxruntime": found_python(args.onnxruntime, ".venv-peers"),
            "ours": args.ours,
        }
        engines = [one for one in ENGINES if not args.engines or any(word in one.name for word in args.engines)]
        run = Run(pythons, args.work, args.rounds, args.record, args.patience)
        for threads in args.threads:
            if "operations" in args.parts:
                run.operations(threads)
            for name in args.models if "models" in args.parts else ():
                run.model(name, threads, engines)
        for name in args.models if "start" in args.parts else ():
            run.start(name, max(args.threads), engines)
    if not args.record.exists():
        raise SystemExit(f"{args.record} is not there: measure with `make peers`")
    if args.record == peers_page.RECORD:
        peers_page.write(json.loads(args.record.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
