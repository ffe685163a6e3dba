"""YAML, strictly: no aliases, no duplicate keys, no surprises of type. What is written here is read back the same."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from selftaught.errors import RecipeError


class _Loader(yaml.SafeLoader):
    """YAML without aliases and duplicate keys; 1e-5 is a number, only true and false are booleans, a date is text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise RecipeError(
                f"YAML aliases (*name) are refused, line {event.start_mark.line + 1}.", hint="Write the value out."
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise RecipeError(
                    f"A key must be a word, line {key_node.start_mark.line + 1}.",
                    hint="Put text with braces or brackets in quotes.",
                )
            if key in seen:
                raise RecipeError(
                    f"The key {key!r} stands twice, line {key_node.start_mark.line + 1}.", hint="Keep one of the two."
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what _Loader reads back as the same values."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_BOOL, _DATE, _FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("bool", "timestamp", "float"))
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in pairs if tag not in (_BOOL, _DATE)]
    for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_SCIENTIFIC = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(_FLOAT, _SCIENTIFIC, list("-+.0123456789"))


def read_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise RecipeError(f"{where} is not valid YAML: {error}", hint="Mend the line it names.") from error


def write_yaml(data: Any) -> str:
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
