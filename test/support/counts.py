"""Reads the log of a suite and prints how many tests passed and failed, as `P F`.

Knows the closing lines of pytest (`3 failed, 305 passed, 17 skipped, 1 error in 53.3s`), ctest
(`98% tests passed, 2 tests failed out of 100`), GoogleTest, and `N passed, N failed`. Lines add up:
a log may hold several runs.
"""
import re
import sys


def main(path):
    passed = failed = 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", open(path, errors="replace").read())
    for line in text.splitlines():
        line = line.strip()
        ctest = re.match(r"^\d+% tests passed, (\d+) tests failed out of (\d+)$", line)
        plain = re.match(r"^(\d+) passed, (\d+) failed$", line)
        pytest = re.match(r"^=*\s*((?:\d+ [a-z]+(?:, )?)+) in [\d.:]+s", line)
        if ctest:
            failed += int(ctest[1])
            passed += int(ctest[2]) - int(ctest[1])
        elif plain:
            passed += int(plain[1])
            failed += int(plain[2])
        elif pytest:
            found = {word: int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", pytest[1])}
            passed += found.get("passed", 0)
            failed += found.get("failed", 0) + found.get("error", 0) + found.get("errors", 0)
    print(passed, failed)


if __name__ == "__main__":
    main(sys.argv[1])
