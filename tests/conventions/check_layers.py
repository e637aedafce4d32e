"""Every #include "..." of the tree goes down the order of layers.txt, and none into a closed folder.

Sources compiled for several instruction sets include no library whose functions a linker could share.
"""
import pathlib
import re
import sys

SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
# See kernels/cpu/isa/README.md.
ISA_FOLDER = "kernels/cpu/isa/"
ISA_LIBRARY = {"cstdint", "cstddef", "immintrin.h", "type_traits", "bit"}


def read_layers(path):
    """Returns {folder or header: (line, None or the set of folders that may include it)}."""
    layers = {}
    for number, line in enumerate(path.read_text().splitlines()):
        for name, braces, users in re.findall(r"([^\s{}]+)(\{([^}]*)\})?", line.split("#")[0]):
            layers[name] = (number, set(users.split(",")) if braces else None)
    return layers


def layer_of(file, layers):
    """The entry that a file belongs to: itself, or the nearest folder that is listed."""
    place = pathlib.PurePosixPath(file)
    while str(place) not in layers and str(place) != ".":
        place = place.parent
    return str(place) if str(place) in layers else None


def problem_of(file, included, layers):
    """What is wrong with this include, or None."""
    own, other = layer_of(file, layers), layer_of(included, layers)
    if own is None or other is None:
        return f"{file if own is None else included} is in no layer; add its folder to layers.txt"
    if own == other or own == "tests":
        return None
    (own_line, _), (other_line, users) = layers[own], layers[other]
    if other_line >= own_line:
        return f"{own} may not include {other}: it is not below it in layers.txt"
    if users is not None and own not in users:
        return f"{own} may not include {other}: it is closed"
    return None


def main(root):
    layers = read_layers(root / "tests/conventions/layers.txt")
    problems = []
    for top in sorted({name.split("/")[0] for name in layers}):
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in SUFFIXES:
                continue
            file = path.relative_to(root).as_posix()
            for number, line in enumerate(path.read_text().splitlines(), 1):
                library = re.match(r"\s*#\s*include\s+<([^>]+)>", line)
                if library and file.startswith(ISA_FOLDER) and library.group(1) not in ISA_LIBRARY:
                    problems.append(f"{file}:{number}: <{library.group(1)}> may not be included in {ISA_FOLDER}")
                match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                if not match:
                    continue
                included = match.group(1)
                problem = problem_of(file, included, layers)
                if not (root / included).is_file():
                    problem = f'"{included}" is not a path from the root of the repository'
                if problem:
                    problems.append(f"{file}:{number}: {problem}")
    print("\n".join(problems) or "every include goes down")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
