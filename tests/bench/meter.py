"""Programs that are measured, and how busy others keep the machine meanwhile."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
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


def run_json(program, arguments, variables=None):
    """What the program writes as JSON, with `others` (see above) and `resident`, its memory in bytes."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        meter = Meter()
        command = [str(word) for word in [program, *arguments, "--json", file.name]]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                 env=os.environ | (variables or {}))
        messages = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with {child.returncode}\n{messages}")
        result = json.loads(pathlib.Path(file.name).read_text())
        result["others"] = meter.others(usage.ru_utime + usage.ru_stime)
        result["resident"] = usage.ru_maxrss * 1024
        return result


def as_sets(keys):
    return [word for key in keys for word in ("--set", key)]
