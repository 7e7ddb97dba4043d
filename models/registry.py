"""Registries of the classes that a configuration names.

A configuration names a class of its own as `package.module:Class`, a registered one by a short
name, and a model of a library as `PREFIX:NAME`.
"""

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

from models.user_code import describe

C = TypeVar("C")


class Registry(dict[str, type[C]]):
    """Classes by name.

    Args:
        kind: what the classes are, such as "backbone"; used in error messages.
        base: base class of all of them, as `package.module:Class`; any class by default.
        built_in: `package.module:Class` by name, imported when the class is first used, so that
            configurations are read without torch.
        libraries: by prefix in `LIBRARIES`, the `package.module:Class` that stands for any model of
            that library. Its constructor takes the whole name.
    """

    def __init__(
        self,
        kind: str,
        base: str = "builtins:object",
        built_in: Mapping[str, str] | None = None,
        libraries: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.base = base
        self.built_in = dict(built_in or {})
        self.libraries = dict(libraries or {})

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

    def names(self) -> list[str]:
        """Return the short names: built-in ones and those registered so far."""
        return sorted({*self.built_in, *self})

    def check(self, name: str, field: str) -> None:
        """Check the form of a name without importing its class.

        field: name of the configuration's field, for the message.

        Raises:
            ValueError: `name` is neither a short name nor of one of the forms
                `package.module:Class` and `PREFIX:NAME`.
        """
        if name in self.names() or is_class_name(name) or self._library(name) is not None:
            return
        forms = " or ".join(
            [*(f"{prefix}:NAME" for prefix in self.libraries), "package.module:Class"]
        )
        known = f"known: {', '.join(self.names())}; or" if self.names() else "it must be"
        raise ValueError(f"{field} is {name!r}; {known} {forms}")

    def _library(self, name: str) -> str | None:
        """Return the `package.module:Class` for a model of a library; None for another name."""
        split = library_and_name(name)
        return None if split is None else self.libraries.get(split[0])

    def find(self, name: str) -> type[C]:
        """Return the class of a short name, or import that of `package.module:Class`.

        Raises:
            ValueError: the name is unknown, the import fails, or the class has another base.
        """
        self.check(name, self.kind)
        if name in self:
            return self[name]
        full_name = self._library(name) or self.built_in.get(name, name)
        module_name, _, class_name = full_name.partition(":")
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:  # a script may exit when it is imported
            raise ValueError(
                f"{self.kind} {name}: cannot import {module_name} ({describe(error)}); it must be "
                "in the working directory or be installed"
            ) from error
        cls = getattr(module, class_name, None)
        base_module, _, base_name = self.base.partition(":")
        base: type[C] = getattr(importlib.import_module(base_module), base_name)
        if not (inspect.isclass(cls) and issubclass(cls, base)):
            described = "class" if base is object else self.base.replace(":", ".")
            raise ValueError(f"{self.kind} {name}: {module_name} has no {described} {class_name}")
        return cls

    def check_arguments(
        self,
        name: str,
        cls: Callable[..., Any],
        arguments: Collection[str],
        passed: Mapping[str, str],
    ) -> None:
        """Check the names of the arguments for the constructor of `cls`, called `name` in messages.

        A constructor with `**kwargs` may take any name; building the object shows whether it does.

        passed: what the caller passes itself, by name, each with what it is.

        Raises:
            ValueError: an argument is unknown, missing, or one of `passed`.
        """
        named, takes_any = _parameters(cls)
        names = [each for each in named if each not in passed]
        for argument in arguments:
            if argument in passed:
                raise ValueError(
                    f"{self.kind} {name}: remove the argument `{argument}`; it is "
                    f"{passed[argument]}"
                )
            if argument not in names and not takes_any:
                raise ValueError(
                    f"{self.kind} {name}: unknown argument `{argument}`; "
                    f"known: {', '.join(names) or 'none'}"
                )
        for argument in names:
            if named[argument].default is inspect.Parameter.empty and argument not in arguments:
                raise ValueError(f"{self.kind} {name}: argument `{argument}` is missing")


@dataclass(frozen=True)
class ClassConfig:
    """A class with arguments; a configuration may also be the name alone.

    name: short name of the registry, or `package.module:Class`.
    arguments: arguments of its constructor.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    #: Registry of the names; set by each subclass.
    registry: ClassVar[Registry[Any]]
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        self.registry.check(self.name, "name")

    @classmethod
    def read(cls, value: str | Self, field: str) -> Self:
        """Return `value`, or the configuration of a class that is given by its name alone.

        field: name of the configuration's field, for messages.

        Raises:
            ValueError: the name has a form that the registry does not know.
        """
        if isinstance(value, cls):
            return value
        assert isinstance(value, str)
        cls.registry.check(value, field)
        return cls(value)

    def short_form(self) -> str | Self:
        """Return the name alone if nothing else is set, so that both forms are the same trial."""
        return self.name if self == type(self)(self.name) else self


def takes_argument(cls: Callable[..., Any], argument: str, declared: bool = True) -> bool:
    """Whether the constructor of `cls` has an argument of that name.

    declared: if false, `**kwargs` counts as any argument.
    """
    named, takes_any = _parameters(cls)
    return argument in named or (takes_any and not declared)


def _parameters(cls: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters that can be passed by name, and whether `**kwargs` takes any other."""
    parameters = inspect.signature(cls).parameters
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {name: each for name, each in parameters.items() if each.kind in by_name}
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return named, takes_any


#: Packages by the prefix of the names of their models, such as `hf:convnext`.
LIBRARIES = {"hf": "transformers", "timm": "timm"}


def library_and_name(name: str) -> tuple[str, str] | None:
    """Split `PREFIX:NAME` at a prefix in `LIBRARIES`; None for another name."""
    prefix, separator, rest = name.partition(":")
    return (prefix, rest) if separator and rest and prefix in LIBRARIES else None


def is_class_name(name: str) -> bool:
    """Whether `name` has the form `package.module:Class`."""
    module, _, cls = name.partition(":")
    is_form = all(part.isidentifier() for part in [*module.split("."), cls])
    return is_form and module not in LIBRARIES


#: Networks have no short names.
NETWORKS: Registry[Any] = Registry(
    "network", "torch.nn:Module", libraries={"hf": "models.hugging_face.network:HuggingFaceNetwork"}
)

#: Backbones by name, the values of `backbone:`. Importing `models.backbones` adds the built-in
#: ones.
BACKBONES: Registry[Any] = Registry(
    "backbone",
    "models:Backbone",
    libraries={
        "hf": "models.backbones.hugging_face:HuggingFaceBackbone",
        "timm": "models.backbones.timm:TimmBackbone",
    },
)

#: Kinds of FEM by name, the values of `flows:`. Importing `models.enhancement` adds the built-in
#: ones.
FEM_KINDS: Registry[Any] = Registry("FEM kind", "models:FEM")
