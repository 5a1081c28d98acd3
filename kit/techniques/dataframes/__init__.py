"""Dataframe engines compared: the questions in four idioms, their tables, and the engines as variants."""

from kit.techniques.dataframes.questions import QUESTIONS

__all__ = ["QUESTIONS"]
