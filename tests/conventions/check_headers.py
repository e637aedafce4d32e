"""Every header compiles alone."""
import concurrent.futures
import os
import pathlib
import subprocess
import sys

root = pathlib.Path(sys.argv[1])
# Headers of one instruction-set level belong to the sources compiled for it.
headers = [h for h in sorted(root.rglob("*.h"))
           if h.relative_to(root).parts[0] not in {"build", ".git"}
           and "kernels/cuda" not in h.as_posix() and "tests" != h.relative_to(root).parts[0]]


def check(header):
    relative = header.relative_to(root).as_posix()
    flags = ["-DSIDEWINDER_ISA=isa_generic"] if "cpu/isa/" in relative else []
    result = subprocess.run(
        [os.environ.get("CXX", "g++"), "-std=c++20", "-fsyntax-only", "-x", "c++", "-I", str(root),
         *flags, "-include", relative, "/dev/null"],
        capture_output=True, text=True, cwd=root)
    return "" if result.returncode == 0 else f"{relative} does not compile alone:\n{result.stderr[:600]}"


with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    problems = [text for text in pool.map(check, headers) if text]
print("\n".join(problems) or f"{len(headers)} headers compile alone")
sys.exit(1 if problems else 0)
