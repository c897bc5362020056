"""Activations by name in transformers: `hidden_act="integrand/NAME"` in a model's config.

A config that names an activation of ours carries its declaration as TOML text, so that a saved
model means the same function wherever it is loaded, whatever the catalogue says by then:

    {"hidden_act": "integrand/mine", "integrand": {"mine": "name = \\"mine\\"\\ngradient = ..."}}

The text is parsed as a spec, never evaluated. Nothing is derived before a model asks for it.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from integrand.activation import Activation, activation, derive
from integrand.errors import SpecError
from integrand.models.missing import start_missing
from integrand.models.on_import import on_import
from integrand.nn.pointwise import Pointwise
from integrand.spec import Spec, from_toml, names, row, to_toml

PREFIX = "integrand/"
FIELD = "integrand"  # of a config: name -> TOML
_log = logging.getLogger("integrand")


def register() -> None:
    """Make transformers know `integrand/NAME`, now or as soon as it is imported.

    `import integrand` has done this. Every catalogue name is entered in `ACT2CLS` and `ACT2FN`;
    names that a config declares are entered when a model is built from it.
    """
    on_import("transformers.activations", _enter_catalogue)
    on_import("transformers.configuration_utils", _declare_field)
    on_import("transformers.modeling_utils", _follow_models)


def config_fields(what: str | Spec | Activation, field: str = "hidden_act") -> dict[str, Any]:
    """The fields by which a transformers config names an activation and carries its declaration.

        config = LlamaConfig(..., **ig.models.config_fields(spec))

    Args:
        what: a catalogue name, a spec or an activation.
        field: the config's own name for it, such as "activation_function" for GPT-2.
    """
    if isinstance(what, str):
        what = row(what).spec
    spec = what.spec if isinstance(what, Activation) else what
    return {field: PREFIX + spec.name, FIELD: {spec.name: to_toml(spec)}}


def _enter(activations: Any, name: str) -> None:
    make = functools.partial(_module, name)
    # the second is a copy made when transformers.activations was imported
    for table in (activations.ACT2CLS, activations.ACT2FN):
        table[PREFIX + name] = make


def _enter_catalogue(activations: ModuleType) -> None:
    for name in names():
        _enter(activations, name)
    # what a dict calls for a key it lacks; transformers' own names stay a KeyError
    type(activations.ACT2FN).__missing__ = _unknown


def _unknown(table: Any, key: Any) -> Any:
    if not isinstance(key, str) or not key.startswith(PREFIX):
        raise KeyError(key)
    name = row(key.removeprefix(PREFIX)).spec.name
    raise SpecError(f"'{key}' is an alias: a config must say '{PREFIX}{name}'")


def _declare_field(configuration_utils: ModuleType) -> None:
    # from_pretrained takes overrides of attributes that exist
    configuration_utils.PreTrainedConfig.integrand = None


class _Building(threading.local):
    """The models under construction, outermost first: in whose configs a name is looked up."""

    def __init__(self) -> None:
        self.stack: list[tuple[weakref.ref[Any], Any]] = []

    def begin(self, model: Any, config: Any) -> None:
        self._drop_ended()
        self.stack.append((weakref.ref(model), config))

    def config(self) -> Any:
        self._drop_ended()
        return self.stack[-1][1] if self.stack else None

    def _drop_ended(self) -> None:
        while self.stack and not _constructing(self.stack[-1][0]()):
            self.stack.pop()


def _constructing(model: Any) -> bool:
    """Whether a constructor of `model` is on the call stack."""
    # no hook runs at its end: it may fail, and not every model calls post_init
    frame = sys._getframe()
    while model is not None and (frame := frame.f_back) is not None:
        code = frame.f_code
        constructor = code.co_name == "__init__" and code.co_argcount
        if constructor and frame.f_locals.get(code.co_varnames[0]) is model:
            return True
    return False


_building = _Building()


def _module(
    name: str, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Pointwise:
    """A new module of `integrand/name`, as the config of the model being built declares it."""
    config = _building.config()
    spec = _carried(config, name)
    act = activation(name) if spec is None else derive(spec)
    if config is not None and spec is None:
        setattr(config, FIELD, {**_table(config), name: to_toml(act.spec)})
    return act.module(dtype=dtype, device=device)


def _carried(config: Any, name: str) -> Spec | None:
    """The declaration of `name` in the config or one of its parts, such as audio_config."""
    # a projector is built by the whole model, and named by the config of one part
    found = [_declared(name, table[name]) for p in _parts(config) if name in (table := _table(p))]
    if any(spec != found[0] for spec in found):
        raise SpecError(
            f"'{name}' must mean one function in a model's config and its sub-configs, and two"
            f" declare it differently under '{FIELD}': give one of them another name"
        )
    return found[0] if found else None


def _table(config: Any) -> dict[str, Any]:
    table = getattr(config, FIELD, None) or {}
    if not isinstance(table, dict):
        raise SpecError(
            f"'{FIELD}' in the model's config must map names to TOML, got {type(table).__name__}"
        )
    return table


def _parts(config: Any) -> Iterator[Any]:
    """The config, and those of its parts (text_config and the like)."""
    if config is not None:
        yield config
        for value in list(vars(config).values()):
            if hasattr(value, FIELD) and hasattr(value, "to_dict"):
                yield from _parts(value)


def _declared(name: str, text: object) -> Spec:
    where = f"'{name}' under '{FIELD}' in the model's config"
    if not isinstance(text, str):
        raise SpecError(f"{where} must be the TOML text of a spec, got {type(text).__name__}")
    spec = from_toml(text, where)
    if spec.name != name:
        raise SpecError(f"{where} must declare that name, got name = '{spec.name}'")
    return spec


def _follow_models(modeling_utils: ModuleType) -> None:
    """Know the config of each model while it is built, and the keys its checkpoint lacks."""
    model = modeling_utils.PreTrainedModel
    _wrap(model, "__init__", _begin)
    _wrap(model, "_initialize_missing_keys", _missing)


def _wrap(cls: type, name: str, make: Callable[[Any], Any]) -> None:
    original = getattr(cls, name, None)
    if original is None:
        _log.warning("transformers has no %s.%s any more: integrand cannot follow", cls, name)
    elif not hasattr(original, "_integrand"):
        wrapped: Any = functools.wraps(original)(make(original))
        wrapped._integrand = True
        setattr(cls, name, wrapped)


def _begin(original: Any) -> Any:
    def begin(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        import transformers.activations

        original(self, config, *args, **kwargs)
        _building.begin(self, config)
        for part in _parts(config):
            table = getattr(part, FIELD, None)
            for name in table if isinstance(table, dict) else ():
                _enter(transformers.activations, name)

    return begin


def _missing(original: Any) -> Any:
    def missing(self: Any, *args: Any, **kwargs: Any) -> None:
        start_missing(self)
        original(self, *args, **kwargs)

    return missing
