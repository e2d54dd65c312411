"""A flag that asks to stop as soon as something is true."""

from cld_core.stop import StopCode, StopFlag


class StopWhen(StopFlag):
    def __init__(self, is_time):
        self.is_time = is_time

    @property
    def code(self):
        return StopCode.TERM if self.is_time() else StopCode.NONE
