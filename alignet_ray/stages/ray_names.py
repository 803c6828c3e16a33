"""Names in Ray's dashboard and `ray list tasks` for the work of Ray Data: what is done, not which function does it."""

from collections.abc import Callable
from typing import Any, TypeVar

Class = TypeVar("Class")

# Ray Data names an operator, its tasks and its actors after the function or class that it is given; it has no option
# for it. A class that no module holds under its name travels by its content, and what it is derived from by its module.


class NamedFunction:
    """A function that Ray Data calls by the name of its class."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)


def named_function(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The same function under another name, such as `embed@corpus: read images`."""
    return named_class(NamedFunction, name)(function)


def named_class(base: type[Class], name: str) -> type[Class]:
    """The same class under another name."""
    return type(name, (base,), {"__module__": base.__module__, "__doc__": base.__doc__})
