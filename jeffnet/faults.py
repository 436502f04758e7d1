"""The errors that are a user's to mend; the command lines report them in one line.

Nothing is imported here, so that `jeffnet.doctor` starts where no package is installed.
"""


class InputError(ValueError):
    """An argument, a file or a missing package is at fault."""


class DataError(InputError):
    """The data set is at fault, not the program: the message names the path, the cause and what to do."""
