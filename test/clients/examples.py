"""Finds and runs the examples of README.md and docs/*.md.

How to mark an example (notes for contributors). In the Markdown, put a comment before a fenced block:

    <!-- example: NAME edition=LIST [setup=FILE|none] [keep] -->
    ```sql
    SELECT * FROM token_usage_summary(42, 'UTC', '2025-10-20T18:00:00Z');
    ```
    ```text
    (its output)
    ```

- NAME is unique in its file; `test_examples.py` shows it when the example fails.
- LIST names editions, with commas: sqlite, pg (the native one), pg-portable; `all` is the three; or it is `shell`.
- The `text` block is the output. Without one the example only has to succeed. Blank lines and prose may stand between.
- One edition: the output must be exactly that, but for blanks at line ends. SQLite prints as `sqlite3 -box` with the
  library loaded, PostgreSQL as `psql -X`, both with UTC as the session's zone.
- Several editions: the table may be drawn in either way. Its cells are compared: numbers by value (12.0 is
  12), times by instant, JSON by content. So one drawn table is proved in every edition.
- Each example starts in a fresh database, migrated and loaded with the setup file, examples/sample_ledger.sql unless it
  names another; `setup=none` gives an empty database with the extension loaded or created, not migrated. `keep` goes on in
  the database of the example before it.
- `edition=shell` takes a ```sh block: `bash -eu` in a scratch folder that holds build/, migrations/ and examples/, and
  DATABASE_URL names an empty PostgreSQL database of a role without special rights.

To see what an example prints, so as to paste it: `python3 test/clients/examples.py README.md NAME`.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
from collections import namedtuple
from decimal import Decimal, InvalidOperation

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from support import editions, paths  # noqa: E402

Example = namedtuple("Example", "file name editions setup keep code output")

MARK = re.compile(r"^<!-- example: (?P<name>\S+) edition=(?P<editions>\S+)(?P<more>[^>]*?) *-->$")
SAMPLE = "examples/sample_ledger.sql"


def files():
    return [paths.ROOT / "README.md", *sorted((paths.ROOT / "docs").glob("*.md"))]


def _fence(lines, at, kinds):
    """The fenced block that begins at or after line `at`, before the next mark or heading."""
    while at < len(lines):
        line = lines[at].rstrip()
        if line.startswith("```"):
            if line[3:] not in kinds:
                return None, at
            end = next(i for i in range(at + 1, len(lines)) if lines[i].rstrip() == "```")
            return "\n".join(lines[at + 1:end]), end + 1
        if MARK.match(line) or line.startswith("#"):
            return None, at
        at += 1
    return None, at


def parse(path):
    """All examples of a file, in order. A malformed mark is an error, not a skipped example."""
    found = []
    lines = path.read_text().splitlines()
    for i, line in enumerate(lines):
        if not line.lstrip().startswith("<!-- example:"):
            continue
        mark = MARK.match(line.strip())
        if not mark:
            raise ValueError(f"{path.name}:{i + 1}: malformed mark: {line}")
        names = mark["editions"].split(",")
        names = ["sqlite", "pg", "pg-portable"] if names == ["all"] else names
        for name in names:
            if name not in ("sqlite", "pg", "pg-portable", "shell"):
                raise ValueError(f"{path.name}:{i + 1}: no edition {name}")
        setup, keep = SAMPLE, False
        for word in mark["more"].split():
            if word == "keep":
                keep = True
            elif word.startswith("setup="):
                setup = word[len("setup="):]
            else:
                raise ValueError(f"{path.name}:{i + 1}: what is {word}?")
        code, after = _fence(lines, i + 1, ("sql", "sh"))
        if code is None:
            raise ValueError(f"{path.name}:{i + 1}: no sql or sh block after the mark")
        output, _ = _fence(lines, after, ("text",))
        if any(e.name == mark["name"] for e in found):
            raise ValueError(f"{path.name}:{i + 1}: a second example named {mark['name']}")
        found.append(Example(path.name, mark["name"], names, setup, keep, code, output))
    return found


# -- running --------------------------------------------------------------------------------------

class Runner:
    """Runs the examples of one file in one edition, in order. `make` gives an edition by name."""

    def __init__(self, make):
        self._make = make
        self._kept = {}

    def run(self, example, name):
        if name == "shell":
            return self._shell(example)
        if name == "sqlite":
            return self._sqlite(example)
        return self._postgres(example, {"pg": "pg-native"}.get(name, name))

    def _program(self, argv, text, **more):
        done = subprocess.run(argv, input=text, capture_output=True, text=True, **more)
        if done.returncode != 0 or done.stderr:
            raise RuntimeError(f"{example_text(text)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def _sqlite(self, example):
        if not (example.keep and "sqlite" in self._kept):
            path = os.path.join(editions.scratch_folder(), "example.db")
            if example.setup != "none":
                self._program(["sqlite3", "-bail", path],
                              f".load {paths.library_for_load()}\nSELECT token_usage_migrate();\n"
                              + (paths.ROOT / example.setup).read_text())
            self._kept["sqlite"] = path
        # A box folds long cells; where only cells are compared, a list does not.
        mode = ".mode box" if len(example.editions) == 1 else ".mode list\n.headers on"
        return self._program(["sqlite3", "-bail", self._kept["sqlite"]],
                             f".load {paths.library_for_load()}\n{mode}\n{example.code}\n")

    def _postgres(self, example, name):
        edition = self._make(name)
        env = edition.server.environment()
        env["PGUSER"] = edition.OWNER
        if not (example.keep and name in self._kept):
            database = edition.database(migrate=example.setup != "none")
            self._kept[name] = database.name
            if example.setup != "none":
                database.query((paths.ROOT / example.setup).read_text())
            database.close()
        # -f, not -c: psql then prints every result.
        return self._program(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self._kept[name],
                              "-f", "-"], example.code + "\n", env=env)

    def _shell(self, example):
        edition = self._make("pg-portable")
        folder = pathlib.Path(editions.scratch_folder())
        for name in ("build", "migrations", "examples"):
            os.symlink(paths.ROOT / name, folder / name)
        database = edition.database(install=False)
        database.close()
        env = dict(edition.server.environment(),
                   DATABASE_URL=edition.server.url(database.name, edition.OWNER))
        done = subprocess.run(["bash", "-eu", "-c", example.code], cwd=folder, env=env, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        if done.returncode != 0:
            raise RuntimeError(f"exit code {done.returncode}\n{done.stdout}")
        return done.stdout


def example_text(text):
    return text if len(text) < 2000 else text[:2000] + "..."


# -- comparing ------------------------------------------------------------------------------------

def exact(text):
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def cells(text):
    """The cells of a drawn table, whichever program drew it."""
    rows = []
    for line in text.splitlines():
        if not line.strip() or set(line.strip()) <= set("─┌┬┐├┼┤└┴┘╞═╪╡-+| "):
            continue
        if re.match(r"^\(\d+ rows?\)$", line.strip()):
            continue
        line = line.strip()
        if line.startswith("│"):
            line = line.strip("│")
        elif line.startswith("|"):
            line = line[1:-1] if line.endswith("|") else line[1:]
        rows.append([_value(c.strip()) for c in re.split("[│|]", line)])
    return rows


def _value(text):
    if re.match(r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d", text):
        text = text.replace("T", " ").replace("+00", "").rstrip("Z")
        return text.rstrip("0").rstrip(".") if "." in text else text
    try:
        return Decimal(text).normalize()
    except InvalidOperation:
        pass
    if text[:1] in "{[":
        try:
            return json.loads(text, parse_float=Decimal)
        except ValueError:
            pass
    return text


def same(example, got):
    """Whether the output is the example's, as its editions ask."""
    if example.output is None:
        return True
    if len(example.editions) == 1:
        return exact(got) == exact(example.output)
    return cells(got) == cells(example.output)


def main(argv):
    path, names = pathlib.Path(argv[0]), argv[1:]
    started = {}

    def make(name):
        if name not in started:
            started[name] = editions.make(name)
            started[name].start()
        return started[name]

    runner = Runner(make)
    try:
        for example in parse(path):
            for name in example.editions:
                got = runner.run(example, name)
                if not names or example.name in names:
                    verdict = "as written" if same(example, got) else "DIFFERS"
                    print(f"-- {example.name} ({name}): {verdict}\n{got}")
    finally:
        for edition in started.values():
            edition.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
