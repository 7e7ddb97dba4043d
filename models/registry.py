"""Classes known by a name that a configuration can give."""

from collections.abc import Callable
from typing import TypeVar

C = TypeVar("C")


class Registry(dict[str, type[C]]):
    """Classes by name; `what` names them in messages."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def register(self, name: str) -> Callable[[type[C]], type[C]]:
        """Class decorator: makes a class known under `name`.

        The same class may come again, as when a notebook's cell is run twice.

        Raises:
            ValueError: the name is another class's.
        """

        def add(cls: type[C]) -> type[C]:
            known = self.get(name, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(
                    f"{self.what} {name!r} is already {known.__module__}.{known.__qualname__}"
                )
            self[name] = cls
            return cls

        return add
