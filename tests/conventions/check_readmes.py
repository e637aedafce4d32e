"""Every source folder has a README.md of at most 60 lines."""
import pathlib
import sys

root = pathlib.Path(sys.argv[1])
folders = {p.parent for s in ("*.h", "*.cpp", "*.cu") for top in
           ("kernels", "model", "data", "checkpoints", "trainer", "recipes", "tools")
           for p in (root / top).rglob(s)}
problems = []
for folder in sorted(folders):
    readme = folder / "README.md"
    if not readme.exists():
        problems.append(f"{folder.relative_to(root)}: README.md is missing")
    elif len(readme.read_text().splitlines()) > 60:
        problems.append(f"{readme.relative_to(root)}: more than 60 lines; say less")
print("\n".join(problems) or f"{len(folders)} folders say what they are for")
sys.exit(1 if problems else 0)
