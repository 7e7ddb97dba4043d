"""YAML scalars by YAML 1.2's core schema: `1e-4` is a number, `on` and `2024-01-01` are strings.

PyYAML alone follows YAML 1.1, where it is the other way round.
"""

import re

import yaml


class CoreLoader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's scalars."""


CoreLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )


def _core_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(str(node.value))


CoreLoader.add_constructor("tag:yaml.org,2002:int", _core_int)
