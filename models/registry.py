"""Registries of classes that a configuration names."""

from collections.abc import Callable
from typing import Any, TypeVar

C = TypeVar("C")


class Registry(dict[str, type[C]]):
    """Classes by name.

    Args:
        kind: what the classes are, such as "backbone"; used in error messages.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str) -> Callable[[type[C]], type[C]]:
        """Class decorator that registers a class under `name`.

        Registering the same class again replaces it, as when a notebook cell is run twice.

        Raises:
            ValueError: `name` already belongs to another class.
        """

        def add(cls: type[C]) -> type[C]:
            existing = self.get(name, cls)
            if (existing.__module__, existing.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(
                    f"{self.kind} {name!r} is already {existing.__module__}.{existing.__qualname__}"
                )
            self[name] = cls
            return cls

        return add


#: Backbones by name, the values of `backbone:`. Importing `models.backbones` adds the built-in
#: ones.
BACKBONES: Registry[Any] = Registry("backbone")

#: Kinds of FEM by name, the values of `flows:`. Importing `models.enhancement` adds the built-in
#: ones.
FEM_KINDS: Registry[Any] = Registry("FEM kind")
