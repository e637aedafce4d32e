"""Every source folder has a README.md of at most 60 lines."""
import pathlib
import sys

FOLDERS = ("kernels", "model", "data", "checkpoints", "trainer", "recipes", "tools")
SUFFIXES = {".h", ".cpp", ".cu", ".py"}
MOST_LINES = 60


def main(root):
    problems = []
    for top in FOLDERS:
        folders = {path.parent for path in (root / top).rglob("*") if path.suffix in SUFFIXES}
        for folder in sorted(folders | {root / top}):
            name = (folder / "README.md").relative_to(root)
            if not (root / name).is_file():
                problems.append(f"{name} is missing: what the folder is for, its headers in reading order, "
                                "its invariants")
                continue
            lines = len((root / name).read_text().splitlines())
            if lines > MOST_LINES:
                problems.append(f"{name} has {lines} lines; at most {MOST_LINES} fit in one reading")
    print("\n".join(problems) or "every source folder has its README")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
