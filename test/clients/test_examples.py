"""The examples of README.md and docs/*.md give the output that is printed there."""
import pytest

import examples
from support import editions


def _all():
    found = []
    for path in examples.files():
        if path.exists():
            found += examples.parse(path)
    return found


EXAMPLES = _all()


@pytest.fixture(scope="module")
def runners():
    started = {}

    def make(name):
        if name not in started:
            started[name] = editions.make(name)
            started[name].start()
        return started[name]

    yield {e.file: examples.Runner(make) for e in EXAMPLES}
    for edition in started.values():
        edition.stop()


def _needed(name):
    return {"pg": "pg-native", "shell": "pg-portable"}.get(name, name)


@pytest.mark.parametrize(
    "example,name", [(e, n) for e in EXAMPLES for n in e.editions if _needed(n) in editions.wanted()],
    ids=lambda v: v if isinstance(v, str) else f"{v.file}:{v.name}")
def test_example(runners, example, name):
    got = runners[example.file].run(example, name)
    if not examples.same(example, got):
        pytest.fail(f"{example.file}, example {example.name}, {name} printed\n{got}\nnot\n"
                    f"{example.output}", pytrace=False)


def test_there_are_examples():
    """README.md has at least one example for each of the six reports."""
    text = "\n".join(e.code for e in EXAMPLES if e.file == "README.md" and e.output)
    for report in ("summary", "history", "by_agent", "by_model", "detailed", "totals"):
        assert f"token_usage_{report}(" in text, report
