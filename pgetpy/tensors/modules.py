"""Whether a checkpoint fits a torch module, and how it gets into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgetpy.core.safetensors import SafetensorsHeader
from pgetpy.errors import NotWeightsError
from pgetpy.tensors.base import Array


class Fit:
    """A module, and what is found out about a checkpoint for it.

    Args:
        module: a torch.nn.Module.
        label: what to call the checkpoint in errors.
        strict: whether the names have to be the same ones.
    """

    def __init__(self, module: Any, label: str, *, strict: bool) -> None:
        self._module = module
        self._label = label
        self._strict = strict
        self._expected = {name: tuple(each.shape) for name, each in module.state_dict().items()}
        self._ties = _ties(module)

    def check(self, header: SafetensorsHeader) -> None:
        """Check that no tensor is of another shape, or none of the module's.

        Raises:
            NotWeightsError: one is.
        """
        for tensor in header.tensors:
            expected = self._expected.get(tensor.name)
            if expected is None and self._strict:
                raise self._misfit(f"has {tensor.name}, which the module has not")
            if expected is not None and expected != tensor.shape and tensor.dtype != "F4":
                found = f"{tensor.name} of shape {tensor.shape}"
                raise self._misfit(f"has {found}, and the module's is {expected}")

    def assign(self, state: Mapping[str, Array]) -> Any:
        """Give the module the tensors of `state`.

        Raises:
            NotWeightsError: some are missing.
        """
        whole = dict(state)
        for name, others in self._ties.items():
            source = next((other for other in others if other in whole), None)
            if source is not None:
                whole.setdefault(name, whole[source])
        missing = sorted(self._expected.keys() - whole.keys())
        if missing and self._strict:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise self._misfit(f"lacks {missing[0]}{more}, which the module has")
        result = self._module.load_state_dict(whole, strict=self._strict, assign=True)
        self._tie()
        return result

    def _tie(self) -> None:
        """Make one parameter again of those that were one."""
        for name, others in self._ties.items():
            first = self._module.get_parameter(min(name, *others))
            owner, _, last = name.rpartition(".")
            setattr(self._module.get_submodule(owner), last, first)

    def _misfit(self, reason: str) -> NotWeightsError:
        what = f"those of another module: it {reason}"
        return NotWeightsError(self._label, what, hint="check the reference and the module")


def _ties(module: Any) -> dict[str, tuple[str, ...]]:
    """Return the names of each parameter that has several, with the others that it has."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {
        name: tuple(other for other in each if other != name)
        for each in names.values()
        for name in each
        if len(each) > 1
    }
