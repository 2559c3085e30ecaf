"""Weights that are spread over processes (FSDP2, ZeRO-3), gathered where a model is used outside its forward.

Drawing items and judging a checkpoint call parts of a model as often as the draws ask for it, and processes may do so
unequally often. So the weights are gathered once and the wrapper's hooks are off meanwhile: the model is a plain one.
Each process holds all weights for that time. Under DDP, ZeRO-1 and ZeRO-2 they are whole anyway.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from trl.models.utils import add_hooks, remove_hooks

_AROUND, _SAVING = ("_forward_pre_hooks", "_forward_hooks"), "_state_dict_pre_hooks"


@contextmanager
def whole_weights(model: Any) -> Iterator[None]:
    """All weights of `model` on every process, to be read and not changed; all processes enter and leave together.

    Args:
        model: what the trainer calls: a model, or one wrapped by DDP, FSDP2 or DeepSpeed.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if sharded:
        with _unsharded(model, sharded):
            yield
    elif is_zero3(model):
        with _gathered(model):
            yield
    else:
        yield


@contextmanager
def _unsharded(model: Any, sharded: list[Any]) -> Iterator[None]:
    # FSDP2 takes for its root whichever module is used first; when a training begins with a rollout, none has been
    # used.
    _know_root(model)
    for module in sharded:
        module.unshard()
    # The wrapper's hooks are off meanwhile: they would scatter a part's weights after its first use, and wait for
    # other processes that may never call it.
    hooks = [(module, name, getattr(module, name)) for module in sharded for name in _AROUND]
    # and those before saving, which would scatter what is gathered, if the model is saved meanwhile
    hooks += [(module, _SAVING, getattr(module, _SAVING)) for module in model.modules()]
    for module, name, _ in hooks:
        setattr(module, name, OrderedDict())
    try:
        yield
    finally:
        for module, name, kept in hooks:
            setattr(module, name, kept)
        for module in sharded:
            module.reshard()


def _know_root(model: Any) -> None:
    """Lets the outermost module be the root: FSDP2 takes whichever is used first for it."""
    model._get_fsdp_state()._lazy_init()


def is_zero3(model: Any) -> bool:
    """Whether DeepSpeed keeps parts of the parameters of `model` on other processes."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


@contextmanager
def _gathered(engine: Any) -> Iterator[None]:
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(engine.parameters())):
        remove_hooks(engine)
        try:
            yield
        finally:
            add_hooks(engine)


@torch.no_grad()
def make_whole(wrapped: Any, model: Any) -> None:
    """Turns a sharded `model`, for good, into the plain one that it was, with all weights on every process.

    Args:
        wrapped: what the trainer called.
        model: the model itself; nothing is done where it is not sharded.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if sharded:
        _know_root(model)
        for module in sharded:
            module.unshard()
        _own_parameters(model)
        for module in sharded:
            state = module._get_fsdp_state()
            state._pre_forward_hook_handle.remove()
            state._post_forward_hook_handle.remove()
            for group in state._fsdp_param_groups:  # a group of several modules is met several times
                for handles in (
                    group._module_to_pre_save_state_dict_hook_handle,
                    group._module_to_pre_load_state_dict_hook_handle,
                ):
                    for handle in handles.values():
                        handle.remove()
        for module in sharded:
            module.__class__ = type(module).__mro__[2]
    elif is_zero3(wrapped):
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(wrapped.parameters())):
            remove_hooks(wrapped)
            _own_parameters(model)


def _own_parameters(model: Any) -> None:
    """Gives each module copies of its parameters; those that are shared stay shared."""
    copies: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in copies:
                    copies[id(parameter)] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                module._parameters[name] = copies[id(parameter)]


@torch.no_grad()
def load_whole(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Writes whole `tensors`, which every process has, into a module's parameters (sharded or not) and buffers.

    Raises:
        RuntimeError: names or shapes are not those of the module.
    """
    parameters: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if parameters.keys() != tensors.keys():
        raise RuntimeError(f"{sorted(parameters)} are wanted, {sorted(tensors)} given")
    for name, parameter in parameters.items():
        _write(parameter, tensors[name])


def _write(parameter: Any, tensor: Tensor) -> None:
    shape = getattr(parameter, "ds_shape", parameter.shape)
    if tuple(shape) != tuple(tensor.shape):
        raise RuntimeError(f"a shape of {tuple(shape)} is wanted, {tuple(tensor.shape)} given")
    if isinstance(parameter, DTensor):
        tensor = tensor.to(parameter.device, parameter.dtype)
        placed = distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
        parameter.to_local().copy_(placed.to_local())
    elif hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(tensor.to(parameter.data))
    else:
        parameter.copy_(tensor)
