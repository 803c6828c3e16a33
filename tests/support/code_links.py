"""Links such as [`vice.fit`](core/vice.py#L12) in the package README: each points to the line of its symbol.

`python tests/support/code_links.py` writes the current line numbers into the page.
"""

import ast
import re
from pathlib import Path

LINK = re.compile(r"\[`(?P<symbol>[\w.]+)`\]\((?P<path>[\w/]+\.py)#L\d+\)")


def line_of(symbol: str, source: Path) -> int:
    """Line of a function, class, method or constant; the symbol's last one or two parts name it."""
    lines = {}
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        lines |= _names(node)
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                lines |= {f"{node.name}.{name}": line for name, line in _names(member).items()}
    for name in (symbol, symbol.partition(".")[2]):
        if name in lines:
            return lines[name]
    raise LookupError(f"{source} defines no {symbol}")


def _names(node: ast.stmt) -> dict[str, int]:
    """Names that a statement defines, with its line."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name: node.lineno}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id: node.lineno}
    if isinstance(node, ast.Assign):
        return {target.id: node.lineno for target in node.targets if isinstance(target, ast.Name)}
    return {}


def with_current_lines(page: Path) -> str:
    """The text of a page whose links to symbols have the right line numbers.

    Raises:
        LookupError: a file does not define the symbol.
    """

    def renewed(link: re.Match[str]) -> str:
        symbol = link["symbol"]
        path = link["path"]
        return f"[`{symbol}`]({path}#L{line_of(symbol, page.parent / path)})"

    return LINK.sub(renewed, page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    package_page = Path(__file__).parent.parent.parent / "alignet_ray" / "README.md"
    package_page.write_text(with_current_lines(package_page))
