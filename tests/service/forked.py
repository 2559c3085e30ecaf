"""`llmrec` commands as processes of their own that need not import everything anew.

Started by `python -m tests.service.forked`: imports what a service imports, and forks for each line of standard input,
a JSON list of the command's words and a file for its standard error; the process's number is answered. Nothing but
imports is shared: each process reads the run, opens its log and takes its locks as a fresh one does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    import llmrec.cli.main
    import llmrec.online.deployed
    import llmrec.service.server

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children that end are gone at once
    print("ready", flush=True)
    for line in sys.stdin:
        words, said = json.loads(line)
        if (pid := os.fork()) != 0:
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with Path(said).open("wb", buffering=0) as errors, Path(os.devnull).open("r+b") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(nothing.fileno(), 1)
            os.dup2(errors.fileno(), 2)
        sys.argv = ["llmrec", *words]
        code = 1
        try:
            llmrec.cli.main.main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        finally:
            os._exit(code)


class Forks:
    """Starts commands; ends what is left with the block."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pids = folder, list[int]()

    def __enter__(self) -> Forks:
        own = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.service.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=own,
            cwd=Path(__file__).parents[2],
        )
        assert self._line() == "ready"
        return self

    def __exit__(self, *error: object) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)

    def serve(self, *words: str) -> tuple[int, int]:
        """A service; its process and its port, when it listens."""
        said = self.folder / f"{len(self.pids)}.log"
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([["serve", *words], str(said)]) + "\n")
        pid = int(self._line())
        self.pids.append(pid)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for line in said.read_text().splitlines() if said.is_file() else ():
                if '"serving"' in line:
                    return pid, int(json.loads(line)["port"])
            if not alive(pid):
                break
            time.sleep(0.01)
        raise AssertionError(said.read_text() if said.is_file() else "no process")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def alive(pid: int) -> bool:
    """Whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
