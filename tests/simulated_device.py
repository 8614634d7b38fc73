"""A device in Python, `sim`, that shows without a GPU how code would fare on one.

Tensors on it hold real values, computed by the same CPU kernels, so results must equal the CPU's bit for bit. It is
strict where CUDA is: tensors in two places raise, as does NumPy on a tensor of the device, and random operators are
refused, since numbers that the device draws are others than the CPU's. It counts what costs time on a GPU: copies
either way, synchronizations and kernels, each with the line of the project that caused it.

What it proves: every tensor is where it belongs, nothing random depends on the device, and how often host and device
wait for each other. What it cannot: rounding, which differs on a GPU; races between streams and with memory that is
copied from while it is overwritten; memory limits; speed; whether CUDA has a kernel for an operator and a type. A fused
operator counts as the kernels that PyTorch dispatches, not as those that a GPU launches.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import AcceleratorRegistry
from torch import Tensor
from torch.optim import optimizer
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from palisade.data import placement

SIMULATED_NAME = "sim"
SIMULATED_DEVICE = torch.device("cpu")  # until the backend bears its name, below
PROJECT_ROOT = str(Path(__file__).parents[1])
PROJECT_FOLDERS = tuple(f"{PROJECT_ROOT}/{folder}/" for folder in ("data", "defenses", "evaluation", "targets"))
aten = torch.ops.aten

VIEW_OPERATORS = frozenset(
    (
        *(aten.alias.default, aten.as_strided.default, aten.detach.default, aten.diagonal.default),
        *(aten.expand.default, aten.lift_fresh.default, aten.permute.default, aten.select.int, aten.slice.Tensor),
        *(aten.split.Tensor, aten.split_with_sizes.default, aten.squeeze.default, aten.squeeze.dim),
        *(aten.squeeze.dims, aten.t.default, aten.transpose.int, aten.unbind.int, aten.unfold.default),
        *(aten.unsqueeze.default, aten.view.default, aten.view.dtype, aten._reshape_alias.default),
        *(aten._unsafe_view.default, aten.view_as_real.default, aten.real.default),
    )
)
"""Operators that launch nothing."""
ALLOCATION_OPERATORS = frozenset(
    (
        *(aten.empty_like.default, aten.new_empty.default, aten.new_empty_strided.default),
        *(aten.resize_.default, aten.set_.source_Storage),
    )
)
"""Operators that take memory and leave its content as it is."""
COPY_OPERATORS = frozenset((aten.copy_.default, aten._copy_from.default))
SHAPES_FROM_VALUES = frozenset(
    (
        *(aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_dim.default),
        *(aten.unique_consecutive.default, aten.bincount.default, aten.repeat_interleave.Tensor),
    )
)
"""Operators for whose shape the host waits."""
VALUES_TO_HOST = frozenset((aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default))
"""Operators whose result is a number of the host."""
OPERATORS_OF_TWO_FORMS = frozenset(
    name
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("aten::")
    and all(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in ("CPU", "CompositeImplicitAutograd"))
)
"""Operators with a kernel on CPU and GPU that other devices make of several others, which round otherwise."""
INDEX_OPERATORS = frozenset(
    (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
)


@dataclass
class Costs:
    """What a piece of code asked of the device, in total and by the line of the project that asked.

    Kinds: `host_to_device`, `device_to_host` (each also waits), `synchronization`, `kernel`, and `random` for operators
    that were refused because they draw random numbers, whether or not the code went on without them.
    """

    total: Counter[str] = field(default_factory=Counter)
    copied_bytes: Counter[str] = field(default_factory=Counter)
    lines: dict[str, Counter[str]] = field(default_factory=dict)
    kernels: Counter[str] = field(default_factory=Counter)

    def note(self, kind: str, size: int = 0) -> None:
        """Counts one, of so many bytes where it is a copy."""
        self.total[kind] += 1
        self.copied_bytes[kind] += size
        self.lines.setdefault(kind, Counter())[_project_line()] += 1

    def by_line(self, kind: str) -> str:
        """The lines of a kind, the most frequent first: for messages of assertions."""
        return "\n".join(f"{count:5} {line}" for line, count in self.lines.get(kind, Counter()).most_common())


_counting: list[Costs] = []


@contextmanager
def counting() -> Iterator[Costs]:
    """Counts within its block."""
    costs = Costs()
    _counting.append(costs)
    try:
        yield costs
    finally:
        _counting.remove(costs)


@contextmanager
def without_doubles() -> Iterator[None]:
    """Refuses double precision within its block, as the GPU of a Mac does, and lets the project know."""
    global _doubles
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "DEVICES_WITHOUT_DOUBLES", {SIMULATED_NAME})
        _doubles = False
        try:
            yield
        finally:
            _doubles = True


_doubles = True


def _project_line() -> str:
    """The innermost line of the project that is being executed."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PROJECT_FOLDERS):
            return f"{path.removeprefix(PROJECT_ROOT)[1:]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "outside the project, or in autograd's thread"


def _note(kind: str, size: int = 0) -> None:
    for costs in _counting:
        costs.note(kind, size)


class SimulatedTensor(Tensor):
    """A tensor of the device: its values lie in `raw`, a tensor of the CPU."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> SimulatedTensor:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype,
            layout=raw.layout, device=SIMULATED_DEVICE,
        )  # fmt: skip

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"SimulatedTensor({self.raw!r})"

    def numpy(self, *_: Any, **__: Any) -> Any:
        """Refused, as CUDA refuses it."""
        raise TypeError(f"can't convert {SIMULATED_NAME}:0 device type tensor to numpy; use Tensor.cpu() first")

    def tolist(self) -> Any:
        """The values, which the host waits for."""
        return self.cpu().tolist()

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["raw"], None

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, Tensor], meta: Any, size: Any, stride: Any) -> SimulatedTensor:
        return SimulatedTensor(inner["raw"])


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _check_places(func: Any, args: tuple[Any, ...], on_device: Sequence[Tensor], on_host: Sequence[Tensor]) -> None:
    """Raises RuntimeError where CUDA would; a number of the host, a tensor without dimensions, may be anywhere."""
    if func in COPY_OPERATORS or func is aten._to_copy.default:
        return
    if func in INDEX_OPERATORS:
        if not isinstance(args[0], SimulatedTensor):
            raise RuntimeError("indices should be on the same device as the indexed tensor (cpu)")
        on_host = [each for each in on_host if not any(each is index for index in args[1])]
    if on_device and any(each.ndim > 0 for each in on_host):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices,"
            f" {SIMULATED_NAME}:0 and cpu! ({func})"
        )


def _count(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, to_host: bool) -> None:
    if func in COPY_OPERATORS:
        target, source = args[:2] if func is aten.copy_.default else (args[1], args[0])
        places = isinstance(source, SimulatedTensor), isinstance(target, SimulatedTensor)
        _note({(False, True): "host_to_device", (True, False): "device_to_host"}.get(places, "kernel"), _bytes(source))
    elif func is aten._to_copy.default and to_host:
        _note("device_to_host", _bytes(args[0]))
    elif func is aten._to_copy.default and not isinstance(args[0], SimulatedTensor):
        _note("host_to_device", _bytes(args[0]))
    elif func in VALUES_TO_HOST:
        _note("synchronization")
    elif func not in VIEW_OPERATORS | ALLOCATION_OPERATORS:
        _note("kernel")
        for costs in _counting:
            costs.kernels[str(func)] += 1
        indices = [each for each in args[1] if each is not None] if func in INDEX_OPERATORS else []
        for index in indices:
            if not isinstance(index, SimulatedTensor) and index.ndim:
                _note("host_to_device", _bytes(index))
        if func in SHAPES_FROM_VALUES or any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            _note("synchronization")


def _run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Runs an operator on the values, after everything that a GPU would refuse was refused."""
    # In inference mode what is made of other operators arrives whole.
    if func.name() not in OPERATORS_OF_TWO_FORMS and (parts := func.decompose(*args, **kwargs)) is not NotImplemented:
        return parts
    leaves = [each for each in tree_leaves((args, dict(kwargs))) if isinstance(each, Tensor)]
    on_device = [each for each in leaves if isinstance(each, SimulatedTensor)]
    on_host = [each for each in leaves if not isinstance(each, SimulatedTensor)]
    if torch.Tag.nondeterministic_seeded in func.tags:
        _note("random")
        raise RuntimeError(f"{func} draws random numbers on the device; draw them on the CPU and copy them")
    _check_places(func, args, on_device, on_host)
    asked = kwargs.get("device")
    to_host = asked is not None and torch.device(asked).type == "cpu"
    _count(func, args, kwargs, to_host=to_host)
    plain = {**kwargs, **({} if asked is None else {"device": torch.device("cpu")})}
    if plain.get("pin_memory"):
        plain["pin_memory"] = False
    outputs = func(*tree_map(_raw, args), **tree_map(_raw, plain))
    if not (_doubles or to_host) and any(_is_double(leaf) for leaf in tree_leaves(outputs)):
        raise TypeError(f"{func}: the device has no double precision")
    if torch.Tag.inplace_view in func.tags:
        _change_shape(func, args, kwargs)
    return _returned(func, args, kwargs, outputs, wrap=(lambda each: each) if to_host else _wrapped)


def _change_shape(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Gives a tensor, beside its values, the shape that an operator in place gives it, such as `unsqueeze_`."""
    before = torch._C._meta_in_tls_dispatch_include()
    with no_dispatch():
        torch._C._set_meta_in_tls_dispatch_include(True)
        try:
            func(*args, **kwargs)
        finally:
            torch._C._set_meta_in_tls_dispatch_include(before)


def _is_double(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dtype in (torch.float64, torch.complex128)


def _raw(leaf: Any) -> Any:
    return leaf.raw if isinstance(leaf, SimulatedTensor) else leaf


def _wrapped(leaf: Any) -> Any:
    return SimulatedTensor(leaf) if isinstance(leaf, Tensor) and not isinstance(leaf, SimulatedTensor) else leaf


def _returned(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: Any, wrap: Callable[[Any], Any]
) -> Any:
    """What the operator gives back: tensors that it wrote to are the ones it was called with."""
    declared = func._schema.returns
    if not declared:
        return None
    parts = list(outputs) if len(declared) > 1 else [outputs]
    results = []
    for returned, part in zip(declared, parts, strict=True):
        alias = returned.alias_info
        if alias is None or not alias.is_write or not isinstance(part, Tensor):
            results.append(tree_map(wrap, part))
            continue
        for place, argument in enumerate(func._schema.arguments):
            own = argument.alias_info
            if own is not None and own.is_write and own.before_set == alias.before_set:
                results.append(args[place] if place < len(args) else kwargs[argument.name])
                break
    return tuple(results) if len(declared) > 1 else results[0]


def _empty(
    size: Sequence[int], *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None,
    memory_format: Any = None,
) -> Tensor:  # fmt: skip
    order = memory_format or torch.contiguous_format
    return SimulatedTensor(torch.empty(size, dtype=dtype or torch.get_default_dtype(), memory_format=order))


def _empty_strided(
    size: Sequence[int], stride: Sequence[int], *, dtype: Any = None, layout: Any = None, device: Any = None,
    pin_memory: Any = None,
) -> Tensor:  # fmt: skip
    return SimulatedTensor(torch.empty_strided(size, stride, dtype=dtype or torch.get_default_dtype()))


def _zeros(size: Sequence[int], *, dtype: Any = None, **_: Any) -> Tensor:
    """The tangents of constants, which PyTorch itself holds without memory."""
    return SimulatedTensor(torch.zeros(size, dtype=dtype or torch.get_default_dtype()))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _run(aten.copy_.default, (target, source), {})
    return target


class _Backend(_DummyBackendModule):
    """The functions that PyTorch asks of a device; it has no random numbers of its own."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(16, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass

    def synchronize(self, device: Any = None) -> None:
        _note("synchronization")

    def set_device(self, device: Any) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class SimulatedAccelerator(pl.accelerators.Accelerator):
    """The device as Lightning knows devices."""

    devices: ClassVar[int] = 1

    def setup_device(self, device: torch.device) -> None:
        pass

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    def teardown(self) -> None:
        pass

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(SIMULATED_NAME, number) for number in range(devices)]

    @staticmethod
    def auto_device_count() -> int:
        return SimulatedAccelerator.devices

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return SIMULATED_NAME


# The backend stays for the rest of the process: PyTorch has no way to take one back.
_setup_privateuseone_for_python_backend(SIMULATED_NAME, backend_module=_Backend())
SIMULATED_DEVICE = torch.device(SIMULATED_NAME, 0)
library = torch.library.Library("aten", "IMPL")
library.impl("empty.memory_format", _empty, "PrivateUse1")
library.impl("empty_strided", _empty_strided, "PrivateUse1")
library.impl("_copy_from", _copy_from, "PrivateUse1")
library.impl("_copy_from_and_resize", _copy_from, "PrivateUse1")
library.impl("_efficientzerotensor", _zeros, "PrivateUse1")
for _name in OPERATORS_OF_TWO_FORMS:  # what is registered keeps them whole; their values come from `_run`
    library.impl(_name.removeprefix("aten::"), _run, "PrivateUse1")
AcceleratorRegistry.register(SIMULATED_NAME, SimulatedAccelerator, description="simulated", override=True)
# Optimizers take all parameters at once on a GPU, and on tensors of known types alone.
optimizer._foreach_supported_types.append(SimulatedTensor)
