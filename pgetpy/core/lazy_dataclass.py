"""Dataclasses that take next to no time to define.

The standard library compiles up to six functions for each class when its module is imported. For
the sixty classes of a plain download that took 20 of 95 ms. Here `__init__` is compiled once some
objects have been made, and the other methods are closures.

In use there is no difference: the classes behave the same, and `dataclasses.fields`, `asdict`,
`replace` and `is_dataclass` accept them. What pgetpy does not use is left out (`InitVar`,
`unsafe_hash`, `kw_only` for a class). A dataclass of the standard library may derive from one of
these, but not the other way round. Type checkers see the standard library's functions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

_T = TypeVar("_T")
# Compiling takes as long as setting the fields of this many objects one by one, or longer.
_FEW = 20
_MISSING: Any = object()
_OWN = "__lazy_fields__"


class _Field:
    """What `field()` says about a field. Not a dataclass, for which it would be needed first."""

    __slots__ = (
        "annotation", "compare", "default", "default_factory", "hash", "init", "kw_only", "repr",
    )  # fmt: skip

    def __init__(
        self,
        default: Any = _MISSING,
        default_factory: Any = _MISSING,
        init: bool = True,
        repr: bool = True,
        hash: bool | None = None,
        compare: bool = True,
        kw_only: bool = False,
    ) -> None:
        self.annotation = ""
        self.default = default
        self.default_factory = default_factory
        self.init = init
        self.repr = repr
        self.compare = compare
        self.hash = compare if hash is None else hash
        self.kw_only = kw_only

    @property
    def optional(self) -> bool:
        return self.default is not _MISSING or self.default_factory is not _MISSING


_Fields = dict[str, _Field]


class _Init:
    """Sets the fields of the first objects; then `__init__` is compiled and takes its place."""

    def __init__(self, owner: Any, *, frozen: bool) -> None:
        self._owner = owner
        self._set: Callable[[Any, str, Any], None] = object.__setattr__ if frozen else setattr
        self._frozen = frozen
        self._filled = 0

    def __get__(self, instance: object, cls: type) -> Any:
        if instance is None or self._filled >= _FEW:
            return self._compile().__get__(instance, cls)
        return partial(self._fill, instance)

    def _compile(self) -> Any:
        init = self._owner.__init__ = _compile_init(self._owner, frozen=self._frozen)
        return init

    def _fill(self, instance: Any, /, *values: Any, **given: Any) -> None:
        fields = _fields_of(self._owner)
        named = dict(zip(self._owner.__match_args__, values, strict=False)) | given
        wanted = {name for name, each in fields.items() if each.init}
        needed = {name for name in wanted if not fields[name].optional}
        if not needed <= named.keys() <= wanted or len(named) < len(values) + len(given):
            self._compile()(instance, *values, **given)  # raises what is wrong
            return
        self._filled += 1
        for name, each in fields.items():
            if name in named:
                self._set(instance, name, named[name])
            elif each.default_factory is not _MISSING:
                self._set(instance, name, each.default_factory())
            elif each.init or (each.optional and _has_slot(self._owner, name)):
                self._set(instance, name, each.default)
        if hasattr(self._owner, "__post_init__"):
            instance.__post_init__()


class _Standard:
    """Makes what the standard library's functions look up in a class."""

    def __init__(self, name: str, owner: type, **how: bool) -> None:
        self._name = name
        self._owner = owner
        self._how = how

    def __get__(self, instance: object, _: type) -> Any:
        from dataclasses import field as standard_field
        from dataclasses import make_dataclass

        rows = []
        for name, each in _fields_of(self._owner).items():
            given = {
                key: value
                for key in ("default", "default_factory")
                if (value := getattr(each, key)) is not _MISSING
            }
            given |= {key: getattr(each, key) for key in _SHARED}
            rows.append((name, each.annotation, standard_field(**given)))
        made = make_dataclass(self._owner.__name__, rows, **self._how)  # type: ignore[arg-type]
        value = getattr(made, self._name)
        setattr(self._owner, self._name, value)
        return value


# What the two `field()` have in common beside defaults.
_SHARED = ("init", "repr", "hash", "compare", "kw_only")


def lazy_dataclass(
    cls: type | None = None,
    /,
    *,
    repr: bool = True,
    eq: bool = True,
    order: bool = False,
    frozen: bool = False,
    slots: bool = False,
) -> Any:
    """Make a class a dataclass, as `dataclasses.dataclass` does."""

    def wrap(cls: type) -> type:
        return _process(cls, repr=repr, eq=eq, order=order, frozen=frozen, slots=slots)

    return wrap if cls is None else wrap(cls)


def lazy_field(**how: Any) -> Any:
    """Return what a field's default is and how it is used, as `dataclasses.field` does."""
    return _Field(**how)


def lazy_replace(value: _T, /, **changes: Any) -> _T:
    """Return a copy with some fields changed, as `dataclasses.replace` does."""
    cls = type(value)
    if _OWN not in cls.__dict__:
        from dataclasses import replace as standard_replace

        return standard_replace(value, **changes)  # type: ignore[type-var]
    for name, each in _fields_of(cls).items():
        if each.init and name not in changes:
            changes[name] = getattr(value, name)
    return cls(**changes)


def _fields_of(cls: type) -> _Fields:
    found: _Fields = getattr(cls, _OWN)
    return found


def _process(cls: type, *, repr: bool, eq: bool, order: bool, frozen: bool, slots: bool) -> type:
    fields: _Fields = {}
    for base in reversed(cls.__mro__[1:]):
        if "__dataclass_fields__" in base.__dict__:
            fields |= base.__dict__[_OWN]
    own = _read_fields(cls)
    fields |= own
    if slots:
        cls = _with_slots(cls, own)
    methods: dict[str, Any] = {_OWN: fields, "__init__": _Init(cls, frozen=frozen)}
    usual = (name for name, each in fields.items() if each.init and not each.kw_only)
    methods["__match_args__"] = tuple(usual)
    if repr:
        methods["__repr__"] = _repr_of(fields)
    if eq:
        methods |= _comparisons(fields, order=order, hashes=frozen)
    if frozen:
        methods |= _guards(cls, fields)
    for name, method in methods.items():
        if name not in cls.__dict__ or (name == "__hash__" and cls.__dict__[name] is None):
            setattr(cls, name, method)
    how = {"repr": repr, "eq": eq, "order": order, "frozen": frozen}
    for name in ("__dataclass_fields__", "__dataclass_params__"):
        setattr(cls, name, _Standard(name, cls, **how))
    return cls


def _read_fields(cls: type) -> _Fields:
    """Return the fields that the class itself annotates, and leave their defaults on it."""
    fields: _Fields = {}
    for name, annotation in cls.__annotations__.items():
        if not isinstance(annotation, str):
            raise TypeError(f"{cls.__module__} needs `from __future__ import annotations`")
        if annotation.startswith("ClassVar"):
            continue
        given = cls.__dict__.get(name, _MISSING)
        each = given if isinstance(given, _Field) else _Field(default=given)
        each.annotation = annotation
        fields[name] = each
        if each.default is not _MISSING:
            if each.default.__class__.__hash__ is None:
                raise ValueError(f"the default of {name} is mutable: use default_factory")
            setattr(cls, name, each.default)
        elif each is given:
            delattr(cls, name)
    return fields


def _with_slots(cls: type, own: _Fields) -> type:
    """Return the class made anew: slots cannot be added to one that is there."""
    left_out = {*own, "__dict__", "__weakref__"}
    space = {name: value for name, value in cls.__dict__.items() if name not in left_out}
    space |= {"__slots__": tuple(own), "__qualname__": cls.__qualname__}
    return type(cls)(cls.__name__, cls.__bases__, space)


def _has_slot(cls: type, name: str) -> bool:
    return hasattr(cls.__dict__.get(name), "__set__")


def _compile_init(cls: type, *, frozen: bool) -> Any:
    scope: dict[str, Any] = {"__builtins__": {}, "_set": object.__setattr__, "_absent": _MISSING}
    usual: list[str] = []
    by_name: list[str] = []
    body: list[str] = []
    fields = _fields_of(cls)
    for name, each in fields.items():
        value = name
        scope[f"_default_{name}"] = each.default
        if each.default_factory is not _MISSING:
            scope[f"_default_{name}"] = _MISSING
            scope[f"_make_{name}"] = each.default_factory
            value = f"_make_{name}()"
            if each.init:
                value += f" if {name} is _absent else {name}"
        elif not each.init:
            if each.default is _MISSING or not _has_slot(cls, name):
                continue  # Set by `__post_init__`, or found on the class.
            value = f"_default_{name}"
        if each.init:
            parameter = f"{name}=_default_{name}" if each.optional else name
            (by_name if each.kw_only else usual).append(parameter)
        body.append(f"_set(self,{name!r},{value})" if frozen else f"self.{name}={value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    parameters = ",".join(["self", *usual, *(["*", *by_name] if by_name else [])])
    lines = "\n ".join(body or ["pass"])
    exec(f"def __init__({parameters}):\n {lines}", scope)  # noqa: S102  of names of fields
    init = scope["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__module__ = cls.__module__
    init.__annotations__ = {name: each.annotation for name, each in fields.items() if each.init}
    return init


def _repr_of(fields: _Fields) -> Callable[[Any], str]:
    shown = [name for name, each in fields.items() if each.repr]

    def show(self: Any) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{type(self).__qualname__}({values})"

    return show


def _comparisons(fields: _Fields, *, order: bool, hashes: bool) -> dict[str, Any]:
    values = _values_of([name for name, each in fields.items() if each.compare])

    def by(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def compares(self: Any, other: Any) -> Any:
            if other.__class__ is not self.__class__:
                return NotImplemented
            return compare(values(self), values(other))

        return compares

    methods: dict[str, Any] = {"__eq__": by(operator.eq), "__hash__": None}
    if order:
        methods |= {f"__{name}__": by(getattr(operator, name)) for name in ("lt", "le", "gt", "ge")}
    if hashes:
        hashed = _values_of([name for name, each in fields.items() if each.hash])
        methods["__hash__"] = lambda self: hash(hashed(self))
    return methods


def _values_of(names: list[str]) -> Callable[[Any], Any]:
    return operator.attrgetter(*names) if names else lambda _: ()


def _guards(cls: Any, fields: _Fields) -> dict[str, Any]:
    """Return the methods that refuse to change a field. Subclasses may have attributes besides."""

    def set_field(self: Any, name: str, value: object) -> None:
        _check(self, name)
        super(cls, self).__setattr__(name, value)

    def delete_field(self: Any, name: str) -> None:
        _check(self, name)
        super(cls, self).__delattr__(name)

    def _check(self: Any, name: str) -> None:
        if type(self) is cls or name in fields:
            from dataclasses import FrozenInstanceError

            raise FrozenInstanceError(f"cannot change field {name!r}")

    return {"__setattr__": set_field, "__delattr__": delete_field}


if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:
    dataclass, field, replace = lazy_dataclass, lazy_field, lazy_replace

__all__ = ["dataclass", "field", "replace"]
