"""The error that a user can cause."""


class UserError(Exception):
    """A mistake that the user can mend: one clear sentence (got, allowed, what to do). The CLI exits with 2."""
