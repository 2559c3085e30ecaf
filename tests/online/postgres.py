"""A PostgreSQL server of one's own for tests, on the loopback, in a folder that goes with it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

USER, PASSWORD = "llmrec", "not-to-be-shown-7301"
PROGRAMS = ("initdb", "postgres", "setpriv")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]


class Server:
    """One server with the user llmrec, whose password is asked for on the loopback."""

    def __init__(self, home: Path) -> None:
        self.home, self.data = home, home / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (home / "password").write_text(PASSWORD)
        self._as: list[str] = []
        if os.getuid() == 0:  # the server refuses to run as root
            own = next(n for n in ("postgres", "nobody") if n in {entry.pw_name for entry in pwd.getpwall()})
            entry = pwd.getpwnam(own)
            self._as = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
            for place in (home, home / "password"):
                os.chown(place, entry.pw_uid, entry.pw_gid)
        words = ["--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"]
        files = [f"--username={USER}", f"--pwfile={home / 'password'}", "-D", str(self.data)]
        self._run("initdb", *words, *files)
        self.process: subprocess.Popen[bytes] | None = None

    def _run(self, *command: str) -> None:
        ran = subprocess.run([*self._as, *command], capture_output=True, text=True, check=False, cwd="/")
        assert ran.returncode == 0, ran.stderr

    def start(self) -> None:
        """Starts it; returns when it answers."""
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.home}
        settings |= {"fsync": "off", "shared_buffers": "16MB", "max_connections": 20}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        command = [*self._as, "postgres", "-D", str(self.data), *options]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, cwd="/")
        import psycopg

        end = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < end, (self.home / "log").read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        """Ends it without a word."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)  # at once, with all its processes and without a checkpoint
        self.process.wait(30)

    def url(self, database: str = "shop", password: str = PASSWORD, user: str = USER) -> str:
        """Of a database."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def run(self, statement: str, database: str = "shop") -> None:
        """One statement."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)


@contextlib.contextmanager
def server():
    """A server with the database shop, which has no log yet."""
    home = Path(tempfile.mkdtemp(prefix="llmrec-postgres-"))
    try:
        one = Server(home)
        one.start()
        try:
            one.run("CREATE DATABASE shop", "postgres")
            yield one
        finally:
            one.kill()
    finally:
        shutil.rmtree(home, ignore_errors=True)
