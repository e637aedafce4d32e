"""How busy other programs keep the machine while something is measured."""
import os
import pathlib
import time


class Meter:
    """The share of the machine that other programs had since it was made."""

    def __init__(self):
        self.busy, self.begin = self.read(), time.monotonic()

    @staticmethod
    def read():
        fields = [int(x) for x in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")

    def others(self, own):
        """`own`: seconds of processor time that do not count."""
        wall = (time.monotonic() - self.begin) * os.cpu_count()
        return max(0.0, (self.read() - self.busy - own) / wall)
