"""Dataclasses whose methods are made late are the standard library's in everything else."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import operator
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from pgetpy.core import lazy_dataclass as lazy


def make_point(dataclass: Callable[..., Any], field: Callable[..., Any], **how: bool) -> Any:
    @dataclass(**how)
    class Base:
        """A place."""

        kind: ClassVar[str] = "point"
        x: int
        label: str = field(default="none", repr=False)

        @property
        def doubled(self) -> int:
            return self.x * 2

    @dataclass(**how)
    class Point(Base):
        """One with tags."""

        tags: list[str] = field(default_factory=list, compare=False)
        seen: int = field(default=0, init=False)
        made: list[int] = field(default_factory=list, init=False, compare=False)
        y: int = field(default=7, kw_only=True)

    return Point


@lazy.dataclass(frozen=True)
class Shelf:
    """At the top of the module, where pickle finds it."""

    name: str
    sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Labelled(Shelf):
    """A dataclass of the standard library on one of ours."""

    label: str = "x"


HOWS = [
    {},
    {"frozen": True},
    {"eq": False},
    {"order": True},
    {"frozen": True, "order": True},
    {"repr": False},
    {"eq": False, "repr": False},
]


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_objects_behave_as_those_of_the_standard_library(how: dict[str, bool]) -> None:
    theirs = make_point(dataclasses.dataclass, dataclasses.field, **how)
    ours = make_point(lazy.lazy_dataclass, lazy.lazy_field, **how)
    assert told_by(ours) == told_by(theirs)  # set one by one
    assert inspect.isfunction(ours.__init__)
    assert told_by(ours) == told_by(theirs)  # compiled


def told_by(cls: Any) -> list[object]:
    """Return what objects of the class say in all ways that dataclasses promise something about."""
    one, two, three = cls(1), cls(1, "a", ["t"], y=2), cls(1, tags=["other"])
    told: list[object] = [vars(each) for each in (one, two, three)]
    told += [one == three, one == two, one != three, one == 1, one.tags is three.tags]
    told += [one.seen, cls.kind, one.doubled, cls.label, hasattr(cls, "tags"), cls.__doc__]
    told += [repr(one) if cls.__repr__ is not object.__repr__ else "", cls.__match_args__]
    parameters = inspect.signature(cls).parameters.values()
    told += [[(each.name, each.kind, each.annotation) for each in parameters]]
    told += [hash(one) == hash(three) if cls.__hash__ is not None else "no hash"]
    for compare in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq):
        told += [outcome_of(compare, one, two), outcome_of(compare, one, 3)]
    told += [outcome_of(setattr, two, "x", 5), outcome_of(delattr, two, "label"), vars(two)]
    told += [outcome_of(setattr, two, "other", 5)]
    told += [outcome_of(cls), outcome_of(cls, 1, "a", [], 2), outcome_of(lambda: cls(1, z=2))]
    return told


def outcome_of(call: Callable[..., object], *arguments: object) -> object:
    """Return what the call returns, or the class of what it raises."""
    try:
        return call(*arguments)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_the_standard_library_takes_them_for_its_own(how: dict[str, bool]) -> None:
    theirs = make_point(dataclasses.dataclass, dataclasses.field, **how)
    ours = make_point(lazy.lazy_dataclass, lazy.lazy_field, **how)
    assert dataclasses.is_dataclass(ours)
    rows = [
        [
            (e.name, e.type, e.default, e.init, e.repr, e.compare, e.kw_only)
            for e in dataclasses.fields(cls)
        ]
        for cls in (ours, theirs)
    ]
    assert rows[0] == rows[1]
    assert repr(ours.__dataclass_params__) == repr(theirs.__dataclass_params__)
    assert dataclasses.asdict(ours(1, tags=["t"])) == dataclasses.asdict(theirs(1, tags=["t"]))
    assert vars(dataclasses.replace(ours(1), x=3)) == vars(dataclasses.replace(theirs(1), x=3))


def test_a_copy_may_differ_in_some_fields() -> None:
    shelf = lazy.replace(Shelf("a", (1,)), name="b")
    assert shelf == Shelf("b", (1,))
    assert copy.deepcopy(shelf) == shelf
    assert pickle.loads(pickle.dumps(shelf)) == shelf
    with pytest.raises(TypeError):
        lazy.replace(shelf, colour="red")  # type: ignore[call-arg]


def test_dataclasses_of_the_standard_library_may_derive_from_them() -> None:
    assert repr(Labelled("a", label="b")) == "Labelled(name='a', sizes=(), label='b')"
    assert lazy.replace(Labelled("a", label="b"), name="c") == Labelled("c", label="b")


def test_plain_classes_may_derive_from_them() -> None:
    class Counted(Shelf):
        def __init__(self, name: str) -> None:
            super().__init__(name, (1, 2))

    assert Counted("a").sizes == (1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Counted("a").name = "b"  # type: ignore[misc]


def test_methods_of_the_class_itself_stay() -> None:
    @lazy.dataclass(frozen=True)
    class Quiet:
        secret: str

        def __repr__(self) -> str:
            return "quiet"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 5

    assert (repr(Quiet("x")), Quiet("x") == Quiet("y"), hash(Quiet("x"))) == ("quiet", True, 5)


def test_what_is_left_to_post_init_is_set_there() -> None:
    @lazy.dataclass(frozen=True)
    class Doubled:
        value: int
        double: int = lazy.field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "double", self.value * 2)

    assert Doubled(4) == lazy.replace(Doubled(1), value=4)
    assert Doubled(4).double == 8
    with pytest.raises(TypeError):
        Doubled(4, double=5)  # type: ignore[call-arg]
    assert Doubled(4).double == 8


def test_slots_keep_defaults_and_refuse_what_is_not_a_field() -> None:
    @lazy.dataclass(frozen=True, slots=True)
    class Small:
        name: str
        size: int = 3
        count: int = lazy.field(default=5, init=False)

    small = Small("a")
    assert (small.size, small.count, hasattr(small, "__dict__")) == (3, 5, False)
    assert lazy.replace(small, size=4) == Small("a", 4)
    assert Small.__qualname__.endswith("<locals>.Small")
    assert inspect.isfunction(Small.__init__)
    assert (Small("a"), Small("a").count) == (small, 5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        small.size = 4  # type: ignore[misc]


def test_a_mutable_default_is_refused() -> None:
    with pytest.raises(ValueError, match="tags is mutable"):

        @lazy.dataclass
        class Wrong:
            tags: list[str] = []  # noqa: RUF012


def test_nothing_is_compiled_for_a_few_objects() -> None:
    point = make_point(lazy.lazy_dataclass, lazy.lazy_field)
    few = [point(1, y=2) for _ in range(20)]
    assert not inspect.isfunction(vars(point)["__init__"])
    many = [point(1, y=2) for _ in range(20)]
    assert inspect.isfunction(vars(point)["__init__"])
    assert [vars(each) for each in few] == [vars(each) for each in many]


def test_annotations_that_are_no_texts_are_refused_with_what_to_write() -> None:
    with pytest.raises(TypeError, match="needs `from __future__ import annotations`"):
        lazy.dataclass(type("Wrong", (), {"__annotations__": {"x": int}}))
