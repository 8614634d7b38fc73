"""Signatures of named tuples in the reference: the constructor that `typing.NamedTuple` makes of the fields."""

from __future__ import annotations

from typing import Any

import griffe


class NamedTuples(griffe.Extension):
    """Gives classes that derive from NamedTuple the constructor that Python gives them."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Adds `__init__` with a parameter for each field."""
        if "NamedTuple" not in map(str, cls.bases):
            return
        kind = griffe.ParameterKind.positional_or_keyword
        fields = [
            griffe.Parameter(name, annotation=member.annotation, default=member.value, kind=kind)
            for name, member in cls.members.items()
            if isinstance(member, griffe.Attribute) and member.annotation is not None
        ]
        own = griffe.Parameter("self", kind=kind)
        cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(own, *fields)))
