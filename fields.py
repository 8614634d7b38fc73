"""Fields of settings: their types with ranges, their check on construction, and the one form of their errors."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, InstanceOf, TypeAdapter, ValidationError, with_config
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

if TYPE_CHECKING:
    Adapter = TypeAdapter[Any]
else:  # checks of types at run time know no generic of pydantic's
    Adapter = TypeAdapter

Count = Annotated[int, Field(ge=1)]
CountFromZero = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
"""Between 0 and 1, both left out."""

STRICT_CONFIG = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
"""Unknown settings are refused; no value passes for one of another kind, as `true` or a text would for a number."""
MAX_NAMES = 60
"""Names that an error lists; of more the nearest ones."""
MAX_VALUE_LETTERS = 100
"""Letters of a value that an error repeats."""
NOUNS_OF_TYPES = {"integer": "an integer", "number": "a number", "string": "a text", "boolean": "true or false"}
NOUNS_OF_TYPES |= {"null": "null", "object": "a group of settings"}
SIGNS_OF_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def remedy(text: str) -> Any:
    """Metadata of an annotated type: what an error proposes, in place of a value that would do."""
    return Field(json_schema_extra={"remedy": text})


def nearest(name: str, names: Collection[str]) -> str:
    """The remedy for a name that is none of these: all of them, or the three nearest of many."""
    shown = list(names) if len(names) <= MAX_NAMES else get_close_matches(name, names, n=3, cutoff=0.0)
    return f"choose one of {', '.join(shown)}" + (f", … ({len(names):,} in all)" if len(names) > MAX_NAMES else "")


class CheckedFields:
    """Base of dataclasses whose fields are checked against their types whenever one is made, from Python as well.

    A subclass with rules of its own, over several fields, calls `super().__post_init__()` first.
    """

    def __post_init__(self) -> None:
        check_values(type(self), {name: getattr(self, name) for name in field_names(type(self))})


def field_names(kind: type[Any]) -> list[str]:
    """Names of the fields that a dataclass is made with."""
    return [field.name for field in fields(kind) if field.init]


def check_values(
    kind: Callable[..., Any],
    values: Mapping[str, Any],
    full_key: Callable[[str], str] = str,
    positional: int = 0,
    besides: Collection[str] = (),
) -> None:
    """Checks of the arguments of a class: those of a dataclass by their types, of any other class by its signature.

    Args:
        kind: the class, or a function.
        values: its arguments by name.
        full_key: from an argument's name to its key in the configuration.
        positional: how many of the first arguments are passed besides.
        besides: names of arguments that are passed besides.

    Raises:
        ValueError: if one is unknown or missing, or has a wrong type or value.
    """
    adapter = _of_dataclass(kind) if is_dataclass(kind) else _of_signature(kind, positional, besides)
    values = {name: _plain(value) for name, value in values.items()}
    try:
        adapter.validate_python(values)
    except ValidationError as error:
        raise ValueError(refusal(error, adapter, values, full_key)) from None


def refusal(error: ValidationError, adapter: Adapter, values: Mapping[str, Any], full_key: Callable[[str], str]) -> str:
    """The one form of an error of settings, `key=value: expected <rule>; <remedy>`, such as
    `trainer.epochs=0: expected an integer >= 1; choose e.g. 40`.

    Args:
        error: of which the first is reported, an unknown setting before others: it may be why another one is missing.
        adapter: that raised it.
        values: that it was called with.
        full_key: from a setting's name to its key.
    """
    first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    schema = adapter.json_schema(schema_generator=_Lenient)
    name, known = str(first["loc"][0]), schema.get("properties", {})
    key = full_key(name)
    if first["type"] == "missing":
        return f"{key}: not given, expected {_rule(known[name])}; add {key}=<value>"
    written = f"{key}={as_written(values[name])}"
    if first["type"] == "extra_forbidden":
        near = get_close_matches(name, known, n=1)
        there = f"one of {', '.join(known)}" if known else "none"
        proposal = f"choose {full_key(near[0])}" if near else "remove it"
        return f"{written}: no such setting, expected {there}; {proposal}"
    rule = _rule(known[name])
    if first["type"] == "finite_number":
        rule = rule.replace("a number", "a finite number", 1)
    return f"{written}: expected {rule}; {_remedy(known[name])}"


def _plain(value: Any) -> Any:
    """Lists for all that stands for one: tuples of Python, the lists of Hydra."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else value


def as_written(value: Any) -> str:
    """A value as a command line has it, cut where it goes on."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= MAX_VALUE_LETTERS else text[: MAX_VALUE_LETTERS - 1] + "…"


class _Lenient(GenerateJsonSchema):
    """JSON schemas without the types that JSON has no word for."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {}


@cache
def _of_dataclass(kind: type[Any]) -> Adapter:
    types = {}
    for field in fields(kind):
        if field.init:
            hint = _with_default(_resolved(kind, field.name), field.default)
            types[field.name] = hint if field.default is field.default_factory is MISSING else NotRequired[hint]
    return _adapter(kind.__name__, types, STRICT_CONFIG)


def _of_signature(kind: Callable[..., Any], positional: int, besides: Collection[str]) -> Adapter:
    try:
        parameters = list(inspect.signature(kind).parameters.values())[positional:]
    except (ValueError, TypeError):  # a class in C without a signature
        return _adapter("Arguments", {}, ConfigDict(extra="allow"))
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    own = [each for each in named if each.name not in besides]
    types = {each.name: Any if each.default is each.empty else NotRequired[Any] for each in own}
    takes_all = any(each.kind == each.VAR_KEYWORD for each in parameters)
    return _adapter("Arguments", types, ConfigDict(extra="allow" if takes_all else "forbid"))


def _adapter(name: str, types: dict[str, Any], config: ConfigDict) -> Adapter:
    return TypeAdapter(with_config(config)(TypedDict(name, types)))  # type: ignore[operator]


def _resolved(kind: type[Any], name: str) -> Any:
    """The type of a field, in the words of the module of the class that has it; any where a name is for types alone."""
    owner = next(base for base in kind.__mro__ if name in inspect.get_annotations(base))
    written = SimpleNamespace(__annotations__={name: inspect.get_annotations(owner)[name]})
    try:
        hint = get_type_hints(written, vars(sys.modules[owner.__module__]), include_extras=True)[name]
    except NameError:
        return Any
    if get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis:
        return Sequence[get_args(hint)[0]]  # type: ignore[misc]
    if is_dataclass(hint):  # made already: no mapping will do
        return Annotated[hint, InstanceOf()]  # type: ignore[type-arg]
    return hint


def _with_default(hint: Any, default: Any) -> Any:
    """The type with its default, which an error proposes."""
    plain = isinstance(default, bool | int | float | str | list | tuple)
    return Annotated[hint, Field(json_schema_extra={"default": default})] if plain else hint


def _rule(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words, such as `an integer >= 1 or auto`."""
    if choices := schema.get("anyOf"):
        return ", or ".join(dict.fromkeys(map(_rule, choices)))
    if "$ref" in schema:
        return f"a {schema['$ref'].rpartition('/')[2]}"
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return ("one of " if len(values) > 1 else "") + ", ".join(map(as_written, values))
    if schema.get("type") == "array":
        least = f" of at least {schema['minItems']}" if "minItems" in schema else ""
        items = f", each {_rule(schema['items'])}" if schema.get("items") else ""
        return f"a list{least}{items}"
    filled = ", not empty" if schema.keys() & {"minLength", "minProperties"} else ""
    bounds = [f"{sign} {schema[bound]}" for bound, sign in SIGNS_OF_BOUNDS.items() if bound in schema]
    return " ".join([NOUNS_OF_TYPES.get(schema.get("type", ""), "a value"), " and ".join(bounds)]).strip() + filled


def _remedy(schema: Mapping[str, Any]) -> str:
    """The proposal of a type, its default, or else a value that keeps the rule."""
    parts = [schema, *schema.get("anyOf", ())]
    if proposal := next((part["remedy"] for part in parts if "remedy" in part), None):
        return str(proposal)
    for value in (_example(part) for part in parts):
        if value is not None:
            return f"choose e.g. {as_written(value)}"
    return "give such as [first,second]" if "items" in schema else "choose another, or remove it"


def _example(schema: Mapping[str, Any]) -> Any:
    if examples := schema.get("examples", [schema["default"]] if schema.get("default") not in (None, []) else []):
        return examples[0]
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if schema.get("type") == "boolean":
        return True
    if low is None or schema.get("minimum") is not None:
        return low
    return low + 1 if high is None else (low + high) / 2
