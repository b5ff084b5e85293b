"""Whether a checkpoint fits a torch module, and how it is put into it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pgetpy.core.weights.safetensors import SafetensorsHeader
from pgetpy.errors import BadSettingError, NotWeightsError
from pgetpy.tensors.arrays import shape_in_torch
from pgetpy.tensors.base import Array

# How many names an error message lists.
_NAMED = 8
_REAL_BUFFERS = (
    "make the module with real buffers, as accelerate.init_empty_weights(include_buffers=False) "
    "does, or give these their values first"
)


class Fit:
    """Compares checkpoints with a module, and assigns them.

    Args:
        module: a torch.nn.Module.
        label: what errors call the checkpoint.
        strict: whether missing and unexpected names are errors.
    """

    def __init__(self, module: Any, label: str, *, strict: bool) -> None:
        self._module = module
        self._label = label
        self._strict = strict
        self._expected = {name: tuple(each.shape) for name, each in module.state_dict().items()}
        self._ties = _ties(module)

    def check_buffers(self) -> None:
        """Check that the module has nothing on the meta device that no checkpoint could fill.

        Such a buffer would be left with whatever its memory holds, and the module would compute
        garbage without an error.

        Raises:
            BadSettingError: it has.
        """
        empty = sorted(_left_empty(self._module))
        if empty:
            more = f" and {len(empty) - _NAMED} more" if len(empty) > _NAMED else ""
            names = ", ".join(empty[:_NAMED]) + more
            reason = f"on the meta device it has what no checkpoint holds: {names}; {_REAL_BUFFERS}"
            raise BadSettingError("module", type(self._module).__name__, reason)

    def check(self, header: SafetensorsHeader) -> None:
        """Check that every tensor has the shape of the module's tensor of that name.

        Raises:
            NotWeightsError: one has not.
        """
        for tensor in header.tensors:
            expected = self._expected.get(tensor.name)
            if expected is not None and expected != shape_in_torch(tensor):
                found = f"{tensor.name} of shape {tensor.shape}"
                raise self._misfit(f"has {found}, and the module's is {expected}")

    def check_names(self, names: Iterable[str]) -> None:
        """If strict, check that the names are exactly those of the module.

        Of parameters that are tied in the module, one name is enough.

        Raises:
            NotWeightsError: a name is missing or unexpected.
        """
        if not self._strict:
            return
        given = set(names)
        tied = {name for name, others in self._ties.items() if given.intersection(others)}
        missing = sorted(self._expected.keys() - given - tied)
        if missing:
            raise self._misfit(f"lacks {_first_of(missing)}, which the module has")
        unknown = sorted(given - self._expected.keys())
        if unknown:
            raise self._misfit(f"has {_first_of(unknown)}, which the module does not have")

    def assign(self, state: Mapping[str, Array]) -> Any:
        """Give the module the tensors of `state`, or leave the module as it was.

        Raises:
            NotWeightsError: torch refuses them.
        """
        whole = dict(state)
        for name, others in self._ties.items():
            source = next((other for other in others if other in whole), None)
            if source is not None:
                whole.setdefault(name, whole[source])
        before = self._module.state_dict(keep_vars=True)
        try:
            result = self._module.load_state_dict(whole, strict=self._strict, assign=True)
            self._tie()
        except BaseException as error:
            # Parameters are assigned one by one: a failure or an interrupt may come in the middle.
            self._module.load_state_dict(before, strict=False, assign=True)
            if not isinstance(error, RuntimeError):
                raise
            raise self._misfit(f"cannot be assigned ({error})") from error
        return result

    def _tie(self) -> None:
        """Tie again the parameters that were one before."""
        for name, others in self._ties.items():
            first = self._module.get_parameter(min(name, *others))
            owner, _, last = name.rpartition(".")
            setattr(self._module.get_submodule(owner), last, first)

    def _misfit(self, reason: str) -> NotWeightsError:
        what = f"a file for another module: it {reason}"
        return NotWeightsError(self._label, what, hint="check the reference and the module")


def _left_empty(module: Any) -> Iterator[str]:
    """Yield the names of unsaved buffers and plain tensor attributes on the meta device."""
    for path, part in module.named_modules():
        # ScriptModules have no such attribute.
        names = getattr(part, "_non_persistent_buffers_set", ())
        unsaved = {name: getattr(part, name, None) for name in names}
        for name, found in {**vars(part), **unsaved}.items():
            if getattr(found, "is_meta", False) is True:
                yield f"{path}.{name}" if path else name


def _first_of(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _ties(module: Any) -> dict[str, tuple[str, ...]]:
    """Return the names of each parameter that has several, each with its other names."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {
        name: tuple(other for other in each if other != name)
        for each in names.values()
        for name in each
        if len(each) > 1
    }
