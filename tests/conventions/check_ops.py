"""Every operation of kernels/ops has its CPU kernel, its f64 reference and its test."""
import pathlib
import re
import sys


def main(root):
    problems = []
    operations = 0
    for header in sorted((root / "kernels/ops").glob("*.h")):
        if not re.search(r"^namespace cpu\b", header.read_text(), re.MULTILINE):
            continue
        operations += 1
        name = header.stem
        for needed in (f"kernels/ops/{name}.cpp", f"kernels/cpu/{name}.cpp",
                       f"kernels/reference/{name}.h", f"tests/kernels/{name}_test.cpp"):
            if not (root / needed).is_file():
                problems.append(f"kernels/ops/{name}.h: {needed} is missing")
    print("\n".join(problems) or f"{operations} operations are complete")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
