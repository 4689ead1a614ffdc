"""Runs the pg_regress suite (sql/, expected/) in both PostgreSQL editions on a private server.

The native edition runs as `make installcheck` does. The portable edition gets a database with the
portable file in it and the same tests, so that one expected output holds for both; only tests whose
name begins with `native_`, which look inside the library, are not for it. Prints the differences
where there are any, and a line `N passed, N failed`.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from . import paths, postgres


def tests():
    """The tests of both editions."""
    names = sorted(p.stem for p in (paths.ROOT / "sql").glob("*.sql"))
    return [n for n in names if not n.startswith("native_")]


def count(text):
    """Passed and failed tests in the output of pg_regress: `ok 1 - name` from 16 on, else
    `test name ... ok`."""
    passed = len(re.findall(r"^(?:ok \d|.*\.\.\. ok\b)", text, re.M))
    failed = len(re.findall(r"^(?:not ok \d|.*\.\.\. FAILED\b)", text, re.M))
    return passed, failed


def run(argv, env, folder):
    done = subprocess.run(argv, cwd=paths.ROOT, env=env, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout, end="")
    passed, failed = count(done.stdout)
    if done.returncode != 0:
        for diffs in folder.rglob("regression.diffs"):
            print(diffs.read_text())
        failed = max(failed, 1)
    elif passed == 0:
        print("pg_regress ran no test")
        failed = 1
    return passed, failed


def main():
    postgres.stop_on_sigterm()
    passed = failed = 0
    folder = pathlib.Path(tempfile.mkdtemp(prefix="token_usage_regress_", dir="/tmp"))
    try:
        with postgres.Server() as server:
            env = server.environment()
            print("-- native")
            native = folder / "native"
            native.mkdir()
            p, f = run(["make", "-s", "installcheck", f"PG_CONFIG={env['PG_CONFIG']}",
                        f"EXTRA_REGRESS_OPTS=--outputdir={native}"], env, native)
            passed, failed = passed + p, failed + f
            print("-- portable")
            connection = server.connect()
            connection.autocommit = True
            connection.cursor().execute("CREATE DATABASE regression_portable TEMPLATE template0")
            connection.close()
            # The tests begin unmigrated, as after CREATE EXTENSION.
            connection = server.connect("regression_portable")
            connection.autocommit = True
            connection.cursor().execute(paths.PORTABLE_SQL.read_text())
            connection.cursor().execute(postgres.UNMIGRATE)
            connection.close()
            portable = folder / "portable"
            portable.mkdir()
            binary = pathlib.Path(postgres.pg_config("--pkglibdir")) / "pgxs/src/test/regress/pg_regress"
            p, f = run([str(binary), f"--inputdir={paths.ROOT}", f"--outputdir={portable}",
                        f"--bindir={postgres.pg_config('--bindir')}", "--use-existing",
                        "--dbname=regression_portable", *tests()], env, portable)
            passed, failed = passed + p, failed + f
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    os.umask(0o022)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
