"""The one exception a user can meet; everything else is a bug and keeps its traceback."""


class SAMAudioError(Exception):
    """Bad input, settings or files, said in one sentence: what, where, and what to do."""
