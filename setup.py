"""Puts the notebooks and the plans into the wheel, as kit/shipped; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

SHIPPED = {"kit.shipped.notebooks": "notebooks", "kit.shipped.benchmarks.plans": "benchmarks/plans"}

setup(packages=[*find_packages(include=["kit*"]), *SHIPPED], package_dir=SHIPPED)
