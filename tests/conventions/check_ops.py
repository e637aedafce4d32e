"""Every operation (a header of kernels/ops that declares a cpu kernel) has its CPU source, its f64
reference and its test."""
import pathlib
import sys

root = pathlib.Path(sys.argv[1])
problems, checked = [], 0
for header in sorted((root / "kernels/ops").glob("*.h")):
    if "namespace cpu" not in header.read_text():
        continue
    checked += 1
    name = header.stem
    for wanted in (f"kernels/ops/{name}.cpp", f"kernels/cpu/{name}.cpp",
                   f"kernels/reference/{name}.h", f"tests/kernels/{name}_test.cpp"):
        if not (root / wanted).exists():
            problems.append(f"{header.relative_to(root)}: {wanted} is missing")
print("\n".join(problems) or f"{checked} operations are complete")
sys.exit(1 if problems else 0)
