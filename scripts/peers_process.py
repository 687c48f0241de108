"""The worker processes of scripts/peers.py: starting one, asking it, and saying why there is none."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOREIGN_KERNELS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""What makes OpenBLAS take other kernels than this processor's own."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
LONGEST = 600.0
"""Seconds that an answer may take; the process is ended then, and its engine named as missing."""
SCRIPT = Path(__file__).with_name("peers_worker.py")


class NoEngineError(Exception):
    """An engine that cannot be had; the message is the reason."""


@dataclass(frozen=True)
class Engine:
    """What one row of the tables is measured with.

    Attributes:
        name: as the tables have it.
        python: which interpreter has it: a key of what `scripts/peers.py` is given.
        kind: the class in peers_engines.KINDS.
        options: of that class.
        shipped_only: whether it runs only the files that packages carry, and not those quantised from them.
    """

    name: str
    python: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    shipped_only: bool = False


def environment(threads: int, before: Mapping[str, str]) -> dict[str, str]:
    """The variables of a worker: so many threads everywhere, and each library's own choice of kernels."""
    return {name: value for name, value in before.items() if name not in FOREIGN_KERNELS} | dict.fromkeys(
        THREADS, str(threads)
    )


class Worker:
    """A process that holds one engine, or none yet.

    Args:
        python: the interpreter, or None where there is none.
        threads: how many it may use.
        log: the file that its standard error goes to.

    Raises:
        NoEngineError: the interpreter is not there, or does not start.
    """

    def __init__(self, python: str | None, threads: int, log: Path) -> None:
        if python is None:
            raise NoEngineError("no Python that has it was given, or found")
        self.log = log
        with log.open("a", encoding="utf-8") as errors:
            try:
                self.process = subprocess.Popen(
                    [python, str(SCRIPT)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=environment(threads, os.environ),
                )
            except OSError as error:
                raise NoEngineError(f"{python} does not start: {error.strerror}") from error

    def ask(self, **question: Any) -> dict[str, Any]:
        """The answer; {"error": …} where the process ended instead."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        watch = threading.Timer(LONGEST, self.process.kill)
        watch.start()
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        finally:
            watch.cancel()
        if not line:
            gone = self.process.wait()
            late = f", perhaps since it took more than {LONGEST:g} s" if gone == -signal.SIGKILL else ""
            return {"error": f"the process ended with {gone}{late}; see {self.log.name}"}
        return dict(json.loads(line))

    def close(self) -> None:
        """Let it end, and wait until it has."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):  # it has ended before
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def load(engine: Engine, python: str | None, path: str, threads: int, log: Path) -> tuple[Worker, dict[str, str]]:
    """A worker with the engine in it, and the versions it names.

    Raises:
        NoEngineError: with the reason.
    """
    worker = Worker(python, threads, log)
    said = worker.ask(do="load", kind=engine.kind, path=path, threads=threads, options=dict(engine.options))
    if "error" in said:
        worker.close()
        raise NoEngineError(said["error"])
    return worker, said["versions"]
