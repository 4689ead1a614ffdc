"""Medians of calls of two sides, for benchmarks on machines whose speed changes."""
import statistics
import time


class Pair:
    """Two functions that are called by turns, `row` calls in a row. In a row the caches are warm; and the ratio of both is the median of what it is in each
    turn, in which the machine had one speed."""

    def __init__(self, first, second, row=10):
        self.cases, self.row = (first, second), row
        self.taken, self.ratios = ([], []), []

    def call(self, calls):
        """So many calls of each, and before them some that are not counted: past the plans that PostgreSQL makes anew for the first five."""
        for case in self.cases:
            for _ in range(6):
                case()
        for _ in range(-(-calls // self.row)):
            for case, times in zip(self.cases, self.taken):
                for _ in range(self.row):
                    start = time.perf_counter()
                    case()
                    times.append((time.perf_counter() - start) * 1e3)
            first, second = (statistics.median(times[-self.row:]) for times in self.taken)
            self.ratios.append(first / second)

    def milliseconds(self):
        """Of a call of the first."""
        return statistics.median(self.taken[0])

    def ratio(self):
        """Of the first to the second."""
        return statistics.median(self.ratios)
