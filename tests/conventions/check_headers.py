"""Every header compiles alone: it includes what it needs."""
import concurrent.futures
import os
import pathlib
import subprocess
import sys

FOLDERS = ("kernels", "model", "data", "checkpoints", "trainer", "recipes", "tools", "tests/support")


def errors_of(root, header):
    command = [os.environ.get("CXX", "g++"), "-std=c++20", "-fsyntax-only", "-x", "c++-header",
               "-Wno-pragma-once-outside-header", "-I", str(root)]
    # Those sources are compiled once per instruction-set level; the plainest will do.
    if header.parent == root / "kernels/cpu/isa":
        command += ["-DSIDEWINDER_ISA=isa_generic"]
    run = subprocess.run(command + [str(header)], capture_output=True, text=True, check=False)
    return "" if run.returncode == 0 else f"{header.relative_to(root)}:\n{run.stderr[:2000]}"


def main(root):
    # kernels/cuda needs the headers of the CUDA toolkit.
    headers = [header for folder in FOLDERS for header in sorted((root / folder).rglob("*.h"))
               if header.parent != root / "kernels/cuda"]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = [text for text in pool.map(lambda header: errors_of(root, header), headers) if text]
    print("\n".join(problems) or f"{len(headers)} headers compile alone")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
