"""Processes of llmrec without the seconds of importing torch and its friends: forked from one that has them.

`run` is `subprocess.run` for a line that begins with this Python: the same arguments, environment, folder and pipes,
and a process of its own, but a child of a server that has imported what commands import (started when it is first
asked, for each process of the tests). What depends on how a process *starts* is the server's: the seed of hashes, and
what packages read of the environment when they are imported. So a line with variables of the Hub has a server that has
imported nothing that reads them, lines with an environment that says more than `SAFE` take `subprocess`, and so do
tests of starting, of signals or of reproducibility.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

SAFE = frozenset(
    {
        "COLUMNS",
        "LLMREC_CACHE",
        "LLMREC_DATA",
        "NO_PROXY",
        "PYTEST_CURRENT_TEST",
        "PYTHONPATH",
        "SSL_CERT_FILE",
        "TMPDIR",
        "no_proxy",
    }
)
"""Variables that may differ from the server's: llmrec reads them when it needs them. PYTHONPATH is put into sys.path."""
GIVEN = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
"""Of the server, which sees no other variable of the Hub."""
HUB = "HF_"
"""How the variables begin that packages of the Hub read once."""
PRELOADED = (
    "llmrec.cli.run",
    "llmrec.cli.show",
    "llmrec.pipeline.run",
    "llmrec.recommender",
    "trl.trainer.sft_trainer",
)
"""Not the command itself: what runs as __main__ may not be imported before."""
BARE = (
    "matplotlib.figure",
    "polars",
    "pyarrow.parquet",
    "scipy.stats",
    "sklearn.utils.extmath",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.nn.attention.flex_attention",
)
"""What reads nothing of the Hub."""
ROOT = Path(__file__).resolve().parents[1]


def run(
    line: Sequence[object], *, env: Mapping[str, str], cwd: str | Path | None = None, timeout: float = 1000
) -> subprocess.CompletedProcess[str]:
    """Runs a line (this Python with `-m MODULE`, `-c CODE` or a script) to its end; stands for `subprocess.run` with text pipes."""
    line = [str(word) for word in line]
    assert line[0] == sys.executable, f"{line[0]} is not this Python"
    served = _fixed(environment())
    if _fixed(env) == served:
        address = _server(bare=False)
    elif _fixed(env, hub=False) == _fixed(served, hub=False):
        address = _server(bare=True)
    else:
        return subprocess.run(line, env=dict(env), cwd=cwd, capture_output=True, text=True, timeout=timeout)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        asked = {"line": line[1:], "env": dict(env), "cwd": str(cwd or Path.cwd())}
        code = _ask(address, asked, (out.fileno(), err.fileno()), timeout)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8").replace("\r\n", "\n"))
    return subprocess.CompletedProcess(line, code, *texts)


def _fixed(env: Mapping[str, str], *, hub: bool = True) -> dict[str, str]:
    return {key: value for key, value in env.items() if key not in SAFE and (hub or not key.startswith(HUB))}


def environment(**more: str) -> dict[str, str]:
    """That of these tests as the server has it, with variables of `SAFE` on top."""
    return {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | GIVEN | more


@cache
def _server(*, bare: bool) -> str:
    """The address of a server, which ends with this process."""
    folder = tempfile.mkdtemp(prefix="forked-")
    address = str(Path(folder) / "socket")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forked", address, *(BARE if bare else PRELOADED)],
        env=environment(),
        cwd=ROOT,
        stdin=subprocess.PIPE,  # closed when this process ends, however it ends
        stdout=subprocess.PIPE,
    )
    atexit.register(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return address


def _ask(address: str, asked: Mapping[str, Any], files: Sequence[int], timeout: float) -> int:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        line.settimeout(timeout)
        text = json.dumps(asked).encode()
        head = struct.pack("!Q", len(text))
        line.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))])
        line.sendall(text)
        (child,) = struct.unpack("!q", _read(line, 8))
        try:
            (code,) = struct.unpack("!q", _read(line, 8))
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            raise subprocess.TimeoutExpired(asked["line"], timeout) from None
    return int(code)


def _read(line: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = line.recv(size - len(found))
        assert part, "the server of forked processes has ended"
        found += part
    return found


def _serve(address: str, modules: Sequence[str]) -> None:
    """Forks a process for every line it is asked, until its standard input closes."""
    import select

    from llmrec.cli.guard import set_environment

    set_environment()
    for name in modules:
        __import__(name)
    door = socket.socket(socket.AF_UNIX)
    door.bind(address)
    door.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for the commands
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([door, 0], [], [])
        if 0 in ready:
            return
        line, _ = door.accept()
        if os.fork() == 0:
            door.close()
            _handle(line)
        line.close()


def _handle(line: socket.socket) -> None:
    """Starts one command, tells its number, waits for it and tells its exit code; does not come back."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, ancillary, _, _ = line.recvmsg(8, socket.CMSG_SPACE(8))
    files = array.array("i")
    files.frombytes(ancillary[0][2])
    (size,) = struct.unpack("!Q", head)
    asked = json.loads(_read(line, size))
    child = os.fork()
    if child == 0:
        line.close()
        _become(asked, files)
    line.sendall(struct.pack("!q", child))
    _, status = os.waitpid(child, 0)
    line.sendall(struct.pack("!q", os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _become(asked: Mapping[str, Any], files: Sequence[int]) -> None:
    """Is the asked process from here on, as if it had been started with the line; does not come back."""
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 (a descriptor is wanted)
        os.dup2(nothing.fileno(), 0)
    os.dup2(files[0], 1)
    os.dup2(files[1], 2)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.environ.clear()
    os.environ.update(asked["env"])
    tempfile.tempdir = None  # TMPDIR may be another one
    os.chdir(asked["cwd"])
    words = asked["line"]
    code = 0
    try:
        from llmrec.cli.guard import set_environment

        set_environment()
        paths = [path for path in asked["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
        if words[0] == "-m":
            sys.path[:0] = [asked["cwd"], *paths]
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.path[:0] = [asked["cwd"], *paths]
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.path[:0] = [str(Path(words[0]).resolve().parent), *paths]
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
