"""The suite can keep its findings as records: `pytest benchmarks/ --kit-runs runs`."""

pytest_plugins = ["kit.pytest_plugin"]
