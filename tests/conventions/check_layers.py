"""Include order between folders: see layers.txt. Prints every include that points up or into a
closed folder, and exits with 1 if there is any."""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
level, opened = {}, {}
lines = (root / "tests/conventions/layers.txt").read_text().splitlines()
for number, line in enumerate(l for l in lines if l and not l.startswith("#")):
    words = line.split()
    if words[0].endswith("*"):
        folder = words[0][:-1]
        level[folder], opened[folder] = number, {folder, *words[1:]}
    else:
        for folder in words:
            level[folder] = number
# Folders listed together on one line may include each other only if one contains the other.


def owner(path):
    folder = path.parent.as_posix()
    while folder not in level:
        if "/" not in folder:
            return None
        folder = folder.rsplit("/", 1)[0]
    return folder


def related(a, b):
    return a == b or a.startswith(b + "/") or b.startswith(a + "/")


problems, checked = [], 0
for path in sorted(root.rglob("*")):
    relative = path.relative_to(root)
    if path.suffix not in {".h", ".cpp", ".cu"} or relative.parts[0] in {"build", ".git"}:
        continue
    source = owner(relative)
    if source is None:
        problems.append(f"{relative}: its folder is not in layers.txt; add it")
        continue
    for name in re.findall(r'^\s*#include "([^"]+)"', path.read_text(), re.M):
        checked += 1
        target = owner(pathlib.Path(name))
        if target is None or not (root / name).exists():
            problems.append(f'{relative}: "{name}" is no file of the tree; name it from the root')
        elif source == "tests" or related(source, target):
            continue
        elif target in opened and source not in opened[target]:
            problems.append(f"{relative}: {target} is closed; use the headers above it")
        elif level[target] >= level[source]:
            problems.append(f"{relative}: {source} may not include {target} ({name})")
print("\n".join(problems) or f"{checked} includes are in order")
sys.exit(1 if problems else 0)
