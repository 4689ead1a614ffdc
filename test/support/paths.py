"""Where things are: the tree under test, the built library, scratch folders."""
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The SQLite library under test. A sanitized build is named by the environment.
LIBRARY = pathlib.Path(os.environ.get("TOKEN_USAGE_SQLITE_LIBRARY", ROOT / "build" / "token_usage.so"))

PORTABLE_SQL = ROOT / "migrations" / "add_token_usage_indexes.sql"
SQLITE_SQL = ROOT / "migrations" / "add_token_usage_indexes_sqlite.sql"


def library_for_load():
    """The library as SQLite's load_extension wants it: without the suffix."""
    return str(LIBRARY.with_suffix(""))
