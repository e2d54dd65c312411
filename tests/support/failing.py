"""Functions of the system, or of libraries, that fail."""

import errno
import os

FULL_DISK = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Failing:
    """``function``, which raises ``error`` instead at the calls, from 1, for whose number ``fails``
    is true."""

    def __init__(self, function, fails, error):
        self.function = function
        self.fails = fails
        self.error = error
        self.calls = 0

    def __call__(self, *arguments, **options):
        self.calls += 1
        if self.fails(self.calls):
            raise self.error
        return self.function(*arguments, **options)
