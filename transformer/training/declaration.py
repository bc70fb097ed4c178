"""Experiments as functions whose keyword parameters are flags.

    @declare(steps=900, batch_size=8)
    def experiment(run, optimizer=optimizers.muon_wsd, *, depth: int = 3): ...

    @derive(language_model.experiment, steps=600)
    def experiment(*, experts: int = 16, **rest): ...

Positional parameters are slots, filled by values in Python. Flags are the keyword-only
parameters, the fields of `Run`, and the keyword-only parameters of the function in the
slot `optimizer`. `__signature__` and `__doc__` list all of them.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Optional

from transformer import flags
from transformer.flags import ExperimentFn
from transformer.training import optimizers
from transformer.training.experiment import Experiment, Run


def declare(
    *,
    imports: bool = False,
    scale: Callable[..., Any] | None = None,
    earlier: flags.Earlier | None = None,
    **defaults: Any,
) -> Callable[[ExperimentFn], ExperimentFn]:
    """Decorator of an experiment `f(run, *slots, *, flags)`, called as
    `f(*slots, *, flags, fields of Run, flags of the optimizer)`.

    imports: whether `init_from` may be a folder of another library. scale: a function
    of flags to a NamedTuple with values for those of them that are None; its further
    fields are facts for `Experiment.derived`. Flags of `Run` and the optimizer that it
    derives have the default None. earlier: of the flags in the record of a run, the
    values of those that it does not name. defaults: of fields of `Run` and of flags of
    the optimizer. TypeError for others, for two flags of one name, and for a flag that
    is left without a default.
    """

    def decorate(function: ExperimentFn) -> ExperimentFn:
        vars(function).update(imports=imports, scale=scale, earlier=earlier)
        experiment = _bind_slots(function, defaults, {})
        own = flags.parameters(function)
        known = {n for n in flags.parameters(experiment) if n not in own}
        _refuse_unknown(defaults, known, function)
        return experiment

    return decorate


def derive(base: ExperimentFn, **defaults: Any) -> Callable[..., ExperimentFn]:
    """Decorator of an experiment `f(*, flags, **rest)` that inherits the flags and the
    slots of `base`, which it receives in `rest`.

    defaults: other defaults of inherited flags, and values of the slots of `base`.
    TypeError for a name that is neither.
    """
    filled = {name: defaults.pop(name) for name in slots(base) if name in defaults}
    inherited = flags.parameters(fill(base, **filled))

    def decorate(function: ExperimentFn) -> ExperimentFn:
        own = flags.parameters(function)
        _refuse_unknown(defaults, {n for n in inherited if n not in own}, function)
        return _inherit(function, base, defaults, filled)

    return decorate


def fill(experiment: ExperimentFn, **values: Any) -> ExperimentFn:
    """`experiment` with other values of its slots, such as `optimizer=lion`, and with
    the flags that follow from them. TypeError for a slot that it does not have.

    A default of `experiment` also applies to a flag of its name of another optimizer.
    """
    _refuse_unknown(values, slots(experiment), experiment)
    return vars(experiment)["_refill"](values) if values else experiment


def slots(experiment: ExperimentFn) -> dict[str, inspect.Parameter]:
    """The positional parameters of `experiment`."""
    return {
        name: parameter
        for name, parameter in inspect.signature(experiment).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    }


def _bind_slots(
    function: ExperimentFn, defaults: Mapping[str, Any], filled: Mapping[str, Any]
) -> ExperimentFn:
    signature = inspect.signature(function, eval_str=True)
    positional = {
        p.name: p.replace(default=filled.get(p.name, p.default))
        for p in list(signature.parameters.values())[1:]
        if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    own, of_run = flags.parameters(function), _fields(Run)
    optimizer = _defaults(positional).get("optimizer")
    of_optimizer = flags.parameters(optimizer) if optimizer else {}
    _refuse_repeated([*own, *of_run, *of_optimizer], function)
    scale = vars(function).get("scale")
    none = _defaults(flags.parameters(scale)) if scale else {}
    none = {name: None for name, default in none.items() if default is None}
    inherited = _with_defaults(
        {**of_run, **of_optimizer}, {**none, **defaults}, optimizer
    )
    _refuse_missing({**own, **inherited}, function)
    _refuse_stated(_defaults(positional), scale, function)

    def make(keywords: Mapping[str, Any]) -> Experiment:
        given = {**_defaults(own), **_defaults(inherited), **keywords}
        chosen = flags.derive(function, given)
        values = _defaults(positional)
        if optimizer:
            tuned = {name: chosen[name] for name in of_optimizer}
            values["optimizer"] = functools.partial(optimizer, **tuned)
        run = Run(**{name: chosen[name] for name in of_run})
        if run.init_partial and run.init_from is None:
            raise ValueError("--init_partial: expected --init_from beside it, got none")
        if "model" in values:
            _check_sizes(values["model"], chosen)
        values |= {name: chosen[name] for name in own}
        made = _apply(run, function(run, **values))
        facts = flags.derived_values(function, chosen)
        return made._replace(derived={**facts, **made.derived}) if facts else made

    docs = (function, scale, Run, optimizer)
    return _experiment(
        function,
        make,
        {**positional, **own, **inherited},
        docs=[source for source in docs if source],
        refill=lambda values: _bind_slots(function, defaults, {**filled, **values}),
    )


def _check_sizes(model: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """ValueError where the function in the slot `model` refuses the value of a flag,
    which its message begins with: before the experiment reads its data. 1 stands in
    for sizes that follow from the data."""
    parameters = inspect.signature(model).parameters
    known = {name: values[name] for name in parameters if name in values}
    stand_ins = {
        name: (1, 1) if str(parameter.annotation).startswith("tuple") else 1
        for name, parameter in parameters.items()
        if name not in known
        and parameter.kind is inspect.Parameter.KEYWORD_ONLY
        and parameter.default is inspect.Parameter.empty
    }
    if not known:
        return
    try:
        model(**known, **stand_ins)
    except Exception as error:  # Of a stand-in, else the experiment raises it again.
        if isinstance(error, ValueError) and str(error).partition(":")[0] in known:
            raise ValueError(f"--{error}") from None


def _with_defaults(
    parameters: Mapping[str, inspect.Parameter],
    defaults: Mapping[str, Any],
    optimizer: Any,
) -> dict[str, inspect.Parameter]:
    """The parameters with these defaults. None, for what is derived, is a value of
    theirs then, and gives way to what a `partial` of an optimizer states."""
    changed = dict(parameters)
    for name, default in defaults.items():
        if name not in parameters:
            continue
        if default is None and name in getattr(optimizer, "keywords", {}):
            continue
        kind = parameters[name].annotation
        annotation = Optional[kind] if default is None else kind  # noqa: UP045
        changed[name] = parameters[name].replace(default=default, annotation=annotation)
    return changed


def _apply(run: Run, experiment: Experiment) -> Experiment:
    """`experiment` with the settings of `run` that are the same in every one."""
    if run.freeze or run.ema_decay or run.state_dtype != "float32":
        wrapped = optimizers.wrap(
            experiment.optimizer,
            freeze=run.freeze,
            ema_decay=run.ema_decay,
            state_dtype=run.state_dtype,
            seed=run.seed,
        )
        experiment = experiment._replace(optimizer=wrapped)
    if run.gradient_dtype != "float32":
        experiment = experiment._replace(gradient_dtype=run.gradient_dtype)
    if run.init_from is not None and experiment.warm_start is None:
        from transformer.training import warm_start

        start = warm_start.WarmStart(run.init_from, run.init_partial)
        experiment = experiment._replace(warm_start=start)
    return experiment


def _inherit(
    function: ExperimentFn,
    base: ExperimentFn,
    defaults: Mapping[str, Any],
    filled: Mapping[str, Any],
) -> ExperimentFn:
    refilled = fill(base, **filled)
    names = ("scale", "earlier")
    vars(function).update({name: vars(refilled).get(name) for name in names})
    own, inherited = flags.parameters(function), flags.parameters(refilled)
    defaults = {k: v for k, v in defaults.items() if k in inherited}
    rest = {
        name: parameter.replace(default=defaults.get(name, parameter.default))
        for name, parameter in inherited.items()
        if name not in own
    }
    _refuse_missing({**own, **rest}, function)
    return _experiment(
        function,
        lambda keywords: function(**{**filled, **defaults, **keywords}),
        {**slots(refilled), **own, **rest},
        docs=[function, refilled],
        refill=lambda values: _inherit(function, base, defaults, {**filled, **values}),
    )


def _experiment(
    function: ExperimentFn,
    make: Callable[[Mapping[str, Any]], Experiment],
    parameters: Mapping[str, inspect.Parameter],
    *,
    docs: list[Any],
    refill: Callable[[Mapping[str, Any]], ExperimentFn],
) -> ExperimentFn:
    """The experiment that `make` makes from its flags, with signature and docstring; a
    call that fills slots is a call of `refill`."""
    positional = [
        name
        for name, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]

    @functools.wraps(function)
    def experiment(*values: Any, **keywords: Any) -> Experiment:
        if len(values) > len(positional):
            raise TypeError(
                f"{flags.name_of(function)}: expected at most {len(positional)} "
                f"positional arguments ({', '.join(positional)}), got {len(values)}"
            )
        given = dict(zip(positional, values, strict=False))
        given |= {name: keywords.pop(name) for name in positional if name in keywords}
        if given:
            return refill(given)(**keywords)
        _refuse_unknown(keywords, parameters, function)
        return make(keywords)._replace(name=flags.name_of(function))

    attributes: Any = experiment
    attributes.__signature__ = inspect.Signature(list(parameters.values()))
    names = [name for name in parameters if name not in positional]
    attributes.__doc__ = _docstring(docs, names)
    attributes._refill = refill
    return experiment


def _fields(record: Any) -> dict[str, inspect.Parameter]:
    """The fields of a NamedTuple as keyword-only parameters."""
    parameters = inspect.signature(record.__new__, eval_str=True).parameters
    hints = typing.get_type_hints(record, include_extras=True)
    return {
        name: parameters[name].replace(
            kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]
        )
        for name in record._fields
    }


def _defaults(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in parameters.items()}


def _refuse_unknown(
    names: Iterable[str], parameters: Iterable[str], function: ExperimentFn
) -> None:
    unknown = sorted(set(names) - set(parameters))
    if unknown:
        raise TypeError(
            f"{flags.name_of(function)}: expected parameters among "
            f"{', '.join(sorted(parameters))}; got {', '.join(unknown)}"
        )


def _refuse_repeated(names: list[str], function: ExperimentFn) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise TypeError(
            f"{flags.name_of(function)}: expected flags of different names in the "
            f"experiment, Run and the optimizer; got {', '.join(repeated)} twice"
        )


def _refuse_stated(
    values: Mapping[str, Any], scale: Any, function: ExperimentFn
) -> None:
    """TypeError for a `partial` in a slot that states a size which is derived: the
    experiment would call it with another."""
    derives = {*inspect.signature(scale).parameters} if scale else set()
    for slot, value in values.items():
        is_partial = isinstance(value, functools.partial) and slot != "optimizer"
        stated = sorted(derives & set(value.keywords)) if is_partial else []
        if stated:
            raise TypeError(
                f"{flags.name_of(function)}: expected {', '.join(stated)} as flags, "
                f"got a partial with them in the slot {slot}"
            )


def _refuse_missing(
    parameters: Mapping[str, inspect.Parameter], function: ExperimentFn
) -> None:
    missing = [
        name
        for name, default in _defaults(parameters).items()
        if default is inspect.Parameter.empty
    ]
    if missing:
        raise TypeError(
            f"{flags.name_of(function)}: expected a default of every flag, got none of "
            f"{', '.join(missing)}"
        )


def _docstring(docs: list[Any], names: list[str]) -> str:
    """The text of the first of `docs`, and the flags `names` as any of them explains
    them, an earlier one first."""
    explained: dict[str, str] = {}
    for source in docs:
        explained = {**flags.arg_docs(source), **explained}
    text = (inspect.getdoc(docs[0]) or "").split("\nArgs:\n")[0].rstrip()
    wrap = functools.partial(
        textwrap.fill, width=88, initial_indent="    ", subsequent_indent=" " * 8
    )
    lines = [wrap(f"{name}: {explained.get(name, '')}".rstrip()) for name in names]
    return "\n".join([text, "", "Args:", *lines])
