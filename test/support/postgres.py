"""Private PostgreSQL servers for the tests.

A server is a copy of an installed one: its bin, lib and share trees are copied below a temporary
folder, where PostgreSQL finds its files relative to its binaries, so that the extension can be
installed without touching the machine. Data, socket and log live in the same folder; the port is a
free one of the loopback address. The server runs as the user `postgres` when we are root, since
PostgreSQL refuses root, and as ourselves otherwise. It is stopped and its folder removed when the
`with` block ends, also on Ctrl-C and SIGTERM.

As a command, `python3 -m support.postgres [--no-extension] COMMAND ...` runs COMMAND with PGHOST,
PGPORT, PGUSER and PG_CONFIG pointing at such a server.
"""
import atexit
import glob
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

from . import paths

SETTINGS = """
fsync = off
full_page_writes = off
synchronous_commit = off
max_connections = 60
max_prepared_transactions = 10
shared_buffers = 64MB
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
log_min_messages = warning
autovacuum_naptime = 10s
"""

# Takes back what token_usage_migrate() made in the schema public; the portable file migrates by itself.
UNMIGRATE = """
DROP TABLE token_usage, token_usage_settings, token_usage_price, token_usage_price_provider, token_usage_price_model,
  token_usage_exchange_rate, token_usage_reprice_log, token_usage_rollup, token_usage_rollup_month, token_usage_rollup_user,
  token_usage_rollup_epoch, token_usage_rollup_state, token_usage_delta;
DROP SEQUENCE token_usage_rollup_guard, token_usage_rollup_turn;
DO $$ DECLARE f regprocedure; BEGIN
  FOR f IN SELECT oid FROM pg_proc WHERE proname LIKE 'token\\_usage\\_rollup\\_%' LOOP
    EXECUTE 'DROP FUNCTION ' || f;
  END LOOP;
END $$"""

_running = []


def pg_config_path():
    """PG_CONFIG, else the newest server that Debian has installed, else pg_config of the PATH."""
    if os.environ.get("PG_CONFIG"):
        return os.environ["PG_CONFIG"]
    installed = glob.glob("/usr/lib/postgresql/*/bin/pg_config")
    if installed:
        return max(installed, key=lambda p: int(re.search(r"/(\d+)/bin", p).group(1)))
    return shutil.which("pg_config") or "pg_config"


def pg_config(option):
    return subprocess.run([pg_config_path(), option], check=True, capture_output=True,
                          text=True).stdout.strip()


def server_version():
    """The major version, as a number."""
    return int(re.search(r"PostgreSQL (\d+)", pg_config("--version")).group(1))


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """One private server; `with Server() as server:` starts and stops it. `settings` are further lines
    of postgresql.conf."""

    def __init__(self, install=True, settings=""):
        self.install, self.settings = install, settings
        self.folder = None
        self.user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="token_usage_pg_", dir="/tmp"))
        _running.append(self)
        try:
            self._copy_tree()
            if self.install:
                self._install()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc):
        self.stop()

    def _run(self, argv, **more):
        """Runs a program of the server as the user that owns the server."""
        def become():
            if self.user:
                os.setgid(self.user.pw_gid)
                os.setgroups([self.user.pw_gid])
                os.setuid(self.user.pw_uid)
        done = subprocess.run([str(a) for a in argv], preexec_fn=become, cwd=str(self.folder),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, **more)
        if done.returncode != 0:
            raise RuntimeError(f"{argv[0]} failed ({done.returncode}):\n{done.stdout}")
        return done.stdout

    def _copy_tree(self):
        # The tree keeps the folders that the server was configured with below a new root; what
        # PostgreSQL looks up relative to its binaries is then found in the copy.
        trees = [pg_config(o) for o in ("--bindir", "--pkglibdir", "--sharedir")]
        skip = shutil.ignore_patterns("bitcode", "pgxs", "man", "doc")
        root = self.folder / "root"
        for tree in trees:
            target = root / tree.lstrip("/")
            if not target.exists():
                shutil.copytree(tree, target, symlinks=True, ignore=skip)
        self.root = root
        self.bin = root / trees[0].lstrip("/")
        self.share = root / trees[2].lstrip("/")
        self.pkglib = root / trees[1].lstrip("/")
        os.chmod(self.folder, 0o755)

    def _install(self):
        # No bitcode: it would need the exact clang that the server was built with, and the tests
        # run without JIT.
        done = subprocess.run(["make", "-s", "install", f"DESTDIR={self.root}",
                               f"PG_CONFIG={pg_config_path()}", "with_llvm=no"],
                              cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)
        if done.returncode != 0:
            raise RuntimeError(f"make install failed:\n{done.stdout}")

    def _start(self):
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        if self.user:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        self._run([self.bin / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust",
                   "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(SETTINGS + self.settings)
        for attempt in range(5):
            self.port = _free_port()
            options = f"-k {self.folder} -p {self.port} -c listen_addresses=127.0.0.1"
            try:
                self._run([self.bin / "pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "60",
                           "-o", options, "start"])
                return
            except RuntimeError as error:
                log = self.log.read_text() if self.log.exists() else ""
                if attempt == 4 or "Address already in use" not in log:
                    raise RuntimeError(f"{error}\n{log}") from None

    def stop(self):
        if self in _running:
            _running.remove(self)
        if self.folder is None:
            return
        if getattr(self, "data", None) and (self.data / "postmaster.pid").exists():
            try:
                self._run([self.bin / "pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop"])
            except RuntimeError as error:
                print(error, file=sys.stderr)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = None

    def environment(self):
        """The libpq variables of this server, for programs that are run against it."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        env.update(PGHOST=str(self.folder), PGPORT=str(self.port), PGUSER="postgres",
                   PG_CONFIG=pg_config_path(), PGTZ="UTC", PGCLIENTENCODING="UTF8")
        return env

    def url(self, database, user):
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def connect(self, database="postgres", user="postgres"):
        import psycopg2
        return psycopg2.connect(host=str(self.folder), port=self.port, dbname=database, user=user,
                                options="-c TimeZone=UTC -c DateStyle=ISO")


@atexit.register
def _stop_all():
    for server in list(_running):
        server.stop()


def stop_on_sigterm():
    """Takes SIGTERM for Ctrl-C, so that servers are stopped and removed. (pytest would count a
    SystemExit as one more failed test and go on.)"""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def main(argv):
    stop_on_sigterm()
    install = True
    if argv and argv[0] == "--no-extension":
        install, argv = False, argv[1:]
    try:
        with Server(install=install) as server:
            return subprocess.run(argv, env=server.environment()).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
