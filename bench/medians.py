"""Medians of calls of two sides, for benchmarks on machines whose speed changes."""
import statistics
import time


def in_rows(calls, cases, row=10):
    """Of two functions: milliseconds of a call of the first, the median of `calls` calls, and its ratio to the second. They are called by turns of `row`
    calls in a row: in a row the caches are warm, and the ratio is the median of what it is in each turn, in which the machine had one speed."""
    taken = [[], []]
    for case in cases:
        for _ in range(6):  # past the plans that PostgreSQL makes anew for the first five calls
            case()
    ratios = []
    while len(taken[0]) < calls:
        for case, times in zip(cases, taken):
            for _ in range(row):
                start = time.perf_counter()
                case()
                times.append((time.perf_counter() - start) * 1e3)
        first, second = (statistics.median(times[-row:]) for times in taken)
        ratios.append(first / second)
    return statistics.median(taken[0]), statistics.median(ratios)
