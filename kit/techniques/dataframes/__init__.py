"""Dataframe engines compared: the questions in five idioms, their tables, and the engines as variants."""

from kit.techniques.dataframes.questions import QUESTIONS as QUESTIONS
