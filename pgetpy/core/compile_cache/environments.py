"""Which compiled code fits which machine: the key of a compile cache, and the facts beside it.

torch's own keys lack the processor's instruction set. Code compiled for AVX-512 is then found on a
machine with AVX2, and computes wrong results, and the other way round it corrupts memory. So the
instruction set is in our key, and in `cache_tag`, which torch mixes into its keys.

The key holds what must be equal. `facts` hold what should be known when it was not a hit, and what
decides about single files: a shared object compiled with -march=native may need more than the
instruction set of its tier.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pgetpy.errors import IntegrityError

FORMAT = 1
# Tiers of x86-64 from the best down, with the flags of /proc/cpuinfo that each needs. They are
# those among which Inductor chooses (torch/_inductor/cpu_vec_isa.py).
_AVX512 = frozenset({"avx512f", "avx512dq", "avx512vl", "avx512bw", "fma"})
_X86_TIERS = (
    ("amx", _AVX512 | {"avx512_vnni", "amx_tile", "amx_bf16", "amx_int8"}),
    ("avx512_vnni", _AVX512 | {"avx512_vnni"}),
    ("avx512", _AVX512),
    ("avx2", frozenset({"avx2", "fma"})),
)


@dataclass(frozen=True)
class CompileEnvironment:
    """What compiled code depends on.

    Attributes:
        required: what must be equal; the key is made of it.
        facts: what else is known: processor flags, C library, compiler, folders.
    """

    required: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def key(self) -> str:
        """64 hexadecimal digits."""
        return hashlib.sha256(canonical(self.required)).hexdigest()

    @property
    def cache_tag(self) -> str:
        """What torch is to mix into its own keys (TORCH_COMPILE_CACHE_KEY_TAG)."""
        return f"isa-{self.required.get('isa', '')}"

    def to_json(self) -> bytes:
        """Return the content of an `env.json`."""
        return canonical({"required": self.required, "facts": self.facts})

    def differing(self, other: CompileEnvironment) -> list[str]:
        """Return the facts in which `other` differs, each as `name: theirs, here ours`."""
        names = sorted(self.required.keys() | other.required.keys())
        return [
            f"{name}: {shown_fact(other.required.get(name))}, here "
            f"{shown_fact(self.required.get(name))}"
            for name in names
            if self.required.get(name) != other.required.get(name)
        ]

    @property
    def needs(self) -> tuple[str, ...]:
        """What shared objects compiled here may need of a machine."""
        return str(self.facts.get("glibc")), *sorted(self.facts.get("cpu_flags", ()))

    def lacks(self, other: CompileEnvironment) -> str:
        """Return what shared objects compiled by `other` may need and this machine lacks, or ""."""
        flags = set(other.facts.get("cpu_flags", ())) - set(self.facts.get("cpu_flags", ()))
        if flags:
            return f"the processor lacks {', '.join(sorted(flags)[:4])}"
        theirs, ours = (_version(each.facts.get("glibc")) for each in (other, self))
        return f"glibc is older than {other.facts.get('glibc')}" if theirs > ours else ""


def canonical(value: object) -> bytes:
    """Return `value` as JSON in one form: keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parse_environment(data: bytes, name: str) -> CompileEnvironment:
    """Return the environment of an `env.json`.

    Raises:
        IntegrityError: it is damaged; `name` is the file's.
    """
    try:
        return environment_of(json.loads(data))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise IntegrityError(f"{name} is damaged: it is not an env.json") from None


def environment_of(value: Mapping[str, Any]) -> CompileEnvironment:
    """Return the environment in a JSON object; ValueError and its like if it is none.

    Others may have written it, so what is computed with is checked here.
    """
    found = CompileEnvironment(dict(value["required"]), dict(value["facts"]))
    flags = found.facts.get("cpu_flags", [])
    if not isinstance(flags, list) or not all(isinstance(each, str) for each in flags):
        raise ValueError("cpu_flags")
    canonical(found.required)  # it has a key
    return found


def shown_fact(value: object) -> str:
    """Return a fact as a sentence holds it."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)


def isa_tier(machine: str, flags: Collection[str], capability: str = "") -> str:
    """Return the name of the instruction set that compilers of code for this processor use.

    Tiers are finer than ATen's: with VNNI or AMX Inductor chooses other instructions for some
    operations, and a processor without them ends with an illegal instruction.

    Args:
        machine: as `platform.machine()` has it.
        flags: the processor's, as /proc/cpuinfo lists them.
        capability: ATEN_CPU_CAPABILITY, by which Inductor can be kept to less.
    """
    if machine in ("x86_64", "AMD64", "i686"):
        tiers = [name for name, needed in _X86_TIERS if needed <= set(flags)]
        if capability == "default":
            return "default"
        if capability == "avx2" and "avx2" in tiers:
            return "avx2"
        return tiers[0] if tiers else "default"
    if machine in ("aarch64", "arm64"):
        return "sve" if "sve" in flags and capability != "default" else "neon"
    return "default"


def _version(text: object) -> tuple[int, ...]:
    """Return the numbers of a version such as "glibc 2.36"."""
    last = str(text or "").rpartition(" ")[2]
    return tuple(int(part) for part in last.split(".") if part.isdecimal())
