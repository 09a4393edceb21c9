"""The one exception a user can meet; everything else is a bug and keeps its traceback."""

import argparse


class SAMAudioError(Exception):
    """Bad input, settings or files, said in one sentence: what, where, and what to do."""


class Cancelled(SAMAudioError):
    """The caller's `cancel` said so."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, as all our errors."""

    def error(self, message: str):
        self.exit(2, f"error: {message} (--help lists the options)\n")
