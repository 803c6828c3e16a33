"""Reads the text of a YAML file, and refuses what YAML itself would take in silence: a key given twice."""

from typing import Any

import yaml

from alignet_ray.errors import UserError, first_line
from alignet_ray.store import JsonObject


def parse(text: str) -> JsonObject:
    """The settings that a text holds; an empty one holds none.

    Raises:
        UserError: it is not YAML, no mapping of names to values, or has a key twice.
    """
    tree = load(text)
    # A file of comments, or of nothing but `---`.
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(
            f"no settings but {_kind(tree)}: expected sections, such as `distill:` with `steps: 10` below it"
        )
    return tree


def load(text: str) -> Any:
    """What a text holds, as plain Python values; None if it holds nothing.

    Raises:
        UserError: it is not YAML, or has a key twice.
    """
    try:
        # A text with characters that cannot be printed is refused here already.
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError as error:
        raise UserError(f"not YAML: {first_line(error)}") from error
    try:
        # The tree of nodes still has both values of a key that is given twice; the dictionary would have the last.
        root = loader.get_single_node()
        if root is None:
            return None
        _require_distinct_keys(root)
        return loader.construct_document(root)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"not YAML: {_problem(error)}") from error
    finally:
        loader.dispose()


def _problem(error: Exception) -> str:
    """What is wrong with a text that is not YAML, and where."""
    # Its own message has several lines, of which the first only says what was being read.
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return first_line(error)


def _kind(value: Any) -> str:
    """What a document holds that is no mapping, in words."""
    if isinstance(value, list):
        return "a list"
    return f"the value {str(value)[:40]!r}"


def _require_distinct(mapping: yaml.MappingNode) -> None:
    """As `_require_distinct_keys`, of one mapping."""
    lines: dict[str, int] = {}
    for key, _ in mapping.value:
        name = str(key.value)
        line = key.start_mark.line + 1
        if name in lines:
            raise UserError(f"line {line}: {name} stands there already (line {lines[name]}): keep one of them")
        lines[name] = line


def _require_distinct_keys(root: yaml.Node) -> None:
    """Raise a UserError for a key that stands twice in one mapping."""
    # An alias leads back to a node that was seen already, in a loop even.
    seen: set[int] = set()
    queue = [root]
    while queue:
        node = queue.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))

        if isinstance(node, yaml.SequenceNode):
            queue += node.value
        elif isinstance(node, yaml.MappingNode):
            _require_distinct(node)
            queue += [value for _, value in node.value]
