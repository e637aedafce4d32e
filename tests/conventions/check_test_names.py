"""Every test that a README names (`Suite.Name`, `Suite.Begin*`, then `….Name` of the same suite) is there."""
import pathlib
import re
import sys


def main(root):
    tests = set()
    for path in (root / "tests").rglob("*_test.cpp"):
        tests.update(re.findall(r"^TEST(?:_P|_F)?\((\w+), (\w+)\)", path.read_text(), re.MULTILINE))
    tests.update(("Conventions", path.stem) for path in (root / "tests/conventions").glob("*.py"))
    problems = []
    named = 0
    for path in sorted((root / "tests").rglob("README.md")):
        suite = ""
        for quoted in re.findall(r"`([\w…]+)\.([\w…]+\*?|\*)`", path.read_text()):
            suite = quoted[0] if quoted[0] != "…" else suite
            if not suite[:1].isupper() or quoted[1] in ("cpp", "md", "txt"):
                continue  # a file
            named += 1
            name = re.compile(quoted[1].replace("…", "").replace("*", "") + r"\w*"
                              if quoted[1][-1] in "*…" else quoted[1])
            if not any(s == suite and name.fullmatch(n) for s, n in tests):
                problems.append(f"{path.relative_to(root)}: no test is called {suite}.{quoted[1]}; "
                                "name the one that shows this now")
    print("\n".join(problems) or f"{named} tests that READMEs name are there")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
