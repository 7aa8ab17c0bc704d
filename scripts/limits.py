"""Size limits of source files and functions, which ruff has no rule for. Exits with 1 when one is exceeded."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def sources() -> list[Path]:
    """All Python files that git knows or would add, without generated ones."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    paths = [Path(line) for line in listed.splitlines()]
    return [path for path in paths if "_pb2" not in path.name and path.exists()]


def excesses(path: Path) -> Iterator[str]:
    """One line of text for each limit that the file exceeds."""
    text = path.read_text()
    lines = text.count("\n")
    if lines > MAX_FILE_LINES:
        yield f"{path}: {lines} lines, the limit is {MAX_FILE_LINES}: split the file by its roles"
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, the limit is {MAX_FUNCTION_LINES}"


def main() -> int:
    found = [line for path in sources() for line in excesses(path)]
    print("\n".join(found) if found else "all files and functions are within their limits")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
