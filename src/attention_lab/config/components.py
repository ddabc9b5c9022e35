"""Check the nodes of a config against the classes they name, and create objects from them.

A node is a mapping with a ``_target_``, the class to create. Its other keys are arguments of that
class, so the constructor's signature defines what can be configured. Unknown arguments, wrong types
and classes without the right base class are reported before anything is created or written.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from operator import or_
from types import GenericAlias, SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from attention_lab.attention import AttentionLayer, Mask
from attention_lab.config.flatten import walk
from attention_lab.config.imports import import_object
from attention_lab.spelling import nearest

#: The base classes allowed for nodes inside a component. Nothing else is called, so an untrusted
#: config cannot call torch.load or os.system.
PARTS = (nn.Module, Mask)

Config = Mapping[str, Any]


class ConfigError(ValueError):
    """The config is invalid. The message is one line, for the user."""


class NodeError(ValueError):
    """A constructor raised ValueError; ``node`` holds the arguments that it rejects."""

    def __init__(self, node: Config, message: str) -> None:
        super().__init__(message)
        self.node = node


def check_node(
    path: str,
    node: Config,
    kind: type | tuple[type, ...],
    given: Collection[str] | None = None,
) -> None:
    """Check a component and every node inside it.

    Args:
        path: the component's path in the config, for messages.
        node: the component's node.
        kind: the required base class, or a tuple of allowed base classes.
        given: the arguments that the program can give; None means all positional ones.

    Raises:
        ConfigError: naming the key, the value and, for a misspelt key, the nearest real one.
    """
    for inner_path, inner in _nodes(path, node):
        is_section = inner_path == path
        kinds = kind if isinstance(kind, tuple) else (kind,)
        allowed = kinds if is_section else PARTS
        made = component_class(inner_path, inner["_target_"], allowed)
        _check_arguments(inner_path, inner, made, given if is_section else None)
        if is_section:
            if kind is Optimizer and "params" in node:
                raise ConfigError(f"{path}.params: cannot be set; the model has them")
            # The model creates its attention layers, whose sizes it knows, and the task creates
            # its optimizer. These nodes therefore become functions.
            _check_partial(path, node, made, is_factory=kind in (AttentionLayer, Optimizer))


def create(node: Config, kinds: tuple[type, ...] = PARTS, /, **given: Any) -> Any:
    """Create the object that a checked node describes.

    Nested nodes are created first. A node with ``_partial_: true`` becomes a function of the
    remaining arguments, such as widths. (Hydra's ``instantiate`` is not used: it copies the objects
    in ``given`` and changes the messages of constructors' errors.)

    Args:
        node: the node.
        kinds: the allowed base classes; those of nested nodes are PARTS.
        given: arguments that are not in the config, such as objects and sizes of the data.

    Raises:
        ConfigError: if its class has none of these base classes; nothing is called then.
        NodeError: if a constructor raises ValueError, at once or when the function is called.
    """
    component = component_class("", node.get("_target_", ""), kinds)
    arguments = {name: _created(value) for name, value in node.items() if not name.startswith("_")}
    make = functools.partial(_construct, node, component, **arguments, **given)
    return make if node.get("_partial_") else make()


def _construct(node: Config, component: type, /, *sizes: Any, **arguments: Any) -> Any:
    try:
        return component(*sizes, **arguments)
    except NodeError:  # raised by a nested node, which is the one to report
        raise
    except ValueError as error:
        raise NodeError(node, str(error)) from error


def path_of(node: Config, config: Config) -> str:
    """The path of a node in a config; the first path if several nodes are equal."""
    return next(path for key in config for path, it in _nodes(key, config[key]) if it == node)


def _created(value: Any) -> Any:
    if isinstance(value, list):
        return copy.deepcopy(value)  # jobs share it, and a user's class may change it
    if not isinstance(value, Mapping):
        return value
    if "_target_" in value:
        return create(value)
    return {name: _created(inner) for name, inner in value.items()}


def _nodes(path: str, value: object) -> Iterator[tuple[str, Config]]:
    return ((p, it) for p, it in walk(value, path) if isinstance(it, Mapping) and "_target_" in it)


def component_class(path: str, target: str, allowed: tuple[type, ...]) -> type:
    """The class that a ``_target_`` names.

    Raises:
        ConfigError: if it cannot be imported, has none of the allowed base classes, or is abstract.
    """
    key = f"{path}._target_".lstrip(".")
    try:
        component = import_object(str(target))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}: cannot import {target} ({error})") from error
    if not (inspect.isclass(component) and issubclass(component, allowed)):
        kinds = " or ".join(kind.__name__ for kind in allowed)
        raise ConfigError(f"{key}: {target} is not a {kinds}")
    if missing := sorted(getattr(component, "__abstractmethods__", ())):
        raise ConfigError(f"{key}: {target} does not define {', '.join(missing)}")
    return component


@functools.cache
def named_parameters(component: type) -> Mapping[str, inspect.Parameter]:
    """The arguments of a class's constructor that have names."""
    return {
        name: parameter
        for name, parameter in inspect.signature(component).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def _check_arguments(
    path: str, node: Config, component: type, given: Collection[str] | None
) -> None:
    parameters = named_parameters(component)
    hints = _type_hints(component.__init__)  # type: ignore[misc]  # only its annotations are read
    for name, value in node.items():
        if name == "_target_":
            continue
        if name == "_partial_":
            check_value(f"{path}.{name}", value, bool)
            continue
        if name not in parameters:
            ours = [key for key, p in parameters.items() if _is_option(p)] or parameters
            raise ConfigError(
                f"{path}.{name}: {component.__name__} has no such key{nearest(name, ours)}"
            )
        annotation = hints.get(name, parameters[name].annotation)
        is_known = annotation is not inspect.Parameter.empty and not isinstance(annotation, str)
        annotation = annotation if is_known else Any
        if isinstance(value, Mapping):
            _check_part(f"{path}.{name}", value, annotation)
        elif isinstance(value, str) and _makes_attention(annotation):
            by_name = ".a" if any(get_origin(it) is Mapping for it in get_args(annotation)) else ""
            raise _not_a_mechanism(f"{path}.{name}", value, by_name)
        else:
            check_value(f"{path}.{name}", value, annotation)
    for name, parameter in parameters.items():
        may_be_given = (
            parameter.kind is not parameter.KEYWORD_ONLY if given is None else name in given
        )
        if parameter.default is parameter.empty and not may_be_given and name not in node:
            raise ConfigError(f"{path}.{name}: is missing; {component.__name__} requires it")


@functools.cache
def _type_hints(constructor: Any) -> dict[str, Any]:
    """The types of a constructor's arguments, except those imported for type checkers only."""
    known: dict[str, Any] = {}
    if inspect.isfunction(constructor):
        names = inspect.unwrap(constructor).__globals__
        for name, annotation in constructor.__annotations__.items():
            with suppress(NameError):
                one = SimpleNamespace(__annotations__={name: annotation})
                known |= get_type_hints(one, globalns=names)
    return known


def _is_option(parameter: inspect.Parameter) -> bool:
    """Whether a config can set an argument; others, such as sizes of the data, come from code."""
    return parameter.kind is parameter.KEYWORD_ONLY or parameter.default is not parameter.empty


def _check_part(path: str, node: Config, annotation: Any) -> None:
    """Raise ConfigError unless the object that a node creates has its argument's type."""
    is_union = get_origin(annotation) in (Union, UnionType)
    for member in get_args(annotation) if is_union else (annotation,):
        if member == Mapping[str, float] or get_origin(member) is dict:
            check_value(path, dict(node), GenericAlias(dict, get_args(member)))
            return
        if get_origin(member) is Mapping and "_target_" not in node:
            for name, inner in node.items():
                if isinstance(inner, str) and _makes_attention(member):
                    raise _not_a_mechanism(f"{path}.{name}", inner)
                if not isinstance(inner, Mapping):
                    raise ConfigError(f"{path}.{name}: must be a mapping with a _target_")
                _check_part(f"{path}.{name}", inner, get_args(member)[1])
            return
        is_factory = get_origin(member) is Callable
        wanted = get_args(member)[1] if is_factory else member
        if not (inspect.isclass(wanted) and issubclass(wanted, PARTS)):
            continue
        made = component_class(path, node.get("_target_", ""), (wanted,))
        _check_partial(path, node, made, is_factory)
        return
    raise ConfigError(f"{path}: must be a plain value, not a mapping")


def _check_partial(path: str, node: Config, made: type, is_factory: bool) -> None:
    if bool(node.get("_partial_")) != is_factory:
        needs = "needs" if is_factory else "must not have"
        raise ConfigError(f"{path}: {made.__name__} {needs} _partial_: true here")


def _makes_attention(annotation: Any) -> bool:
    """Whether an argument takes an attention mechanism, or several mechanisms by name."""
    return annotation is AttentionLayer or any(map(_makes_attention, get_args(annotation)))


def _not_a_mechanism(path: str, value: str, inner: str = "") -> ConfigError:
    """The error for a mechanism's name in place of its node."""
    meant = f"+attention@{path}{inner}={value}"
    return ConfigError(f"{path}: must be a mapping, got {value!r}; did you mean {meant}?")


def check_value(path: str, value: object, annotation: Any) -> None:
    """Raise ConfigError, naming the path, if a plain value does not have the annotated type."""
    annotation = _without_tensor(annotation)
    # A config has no tuples, so a list stands for one.
    if isinstance(value, list) and get_origin(annotation) is tuple:
        value = tuple(value)
    try:
        _adapter(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        problems = [
            # In a config, a Sequence is written as a list.
            detail["msg"]
            .replace("an instance of Sequence", "a valid list, as in [1,5]")
            .replace("a valid tuple", "a valid list, as in [1,5]")
            for detail in error.errors()
        ]
        raise ConfigError(f"{path}: {_alternatives(problems)}; got {value!r}") from None


def _alternatives(problems: Iterable[str]) -> str:
    """Join pydantic's messages about the types of a union, without its repeated beginning.

    >>> _alternatives(["Input should be a valid string", "Input should be a valid dictionary"])
    'input should be a valid string or a valid dictionary'
    """
    first, *others = dict.fromkeys(f"{problem[:1].lower()}{problem[1:]}" for problem in problems)
    beginning = "input should be "
    if first.startswith(beginning):
        others = [other.removeprefix(beginning) for other in others]
    *listed, last = first, *others
    return f"{', '.join(listed)} or {last}" if listed else last


def _without_tensor(annotation: Any) -> Any:
    """The annotation without ``Tensor``: torch's optimizers allow it, and a config has none."""
    if get_origin(annotation) is tuple:
        return GenericAlias(tuple, tuple(map(_without_tensor, get_args(annotation))))
    if isinstance(annotation, UnionType) and Tensor in get_args(annotation):
        return functools.reduce(or_, (it for it in get_args(annotation) if it is not Tensor))
    return annotation


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
