"""An own objective over an own space, each named by a parameter.

The objective is a function that other processes can import, as "my_package.tuning:objective":

    def objective(learning_rate, leaves, booster="gbdt", seed=0):
        return loss                       # a number; lower is better

It takes the parameters of the space by name, or all of them as one dict; if it has a `seed`, it gets one. To be pruned
it yields its loss after each step, and says how many there will be:

    def objective(setting, seed):
        for epoch in range(10):
            yield loss
    objective.steps = 10

A trial fails, and the search goes on, if the objective raises, or what it gives is no finite number; then a step of the
problem raises `TrialFailed` with the reason. A function that is named without a space returns a whole `Problem`.

The space is a TOML file, or a function that returns the same as dicts, or Optuna's distributions:

    [learning_rate]
    low = 1e-4
    high = 1.0
    log = true
    default = 0.1          # what you have without a search; give it to every parameter, or to none

    [leaves]               # whole numbers at both ends: whole numbers between
    low = 8
    high = 256
    default = 31

    [booster]
    choices = ["gbdt", "dart"]
    default = "gbdt"
"""

import inspect
import math
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.errors import UserError
from kit.techniques.address import call, resolve
from kit.techniques.tuning.problem import Problem, Setting, Space, Step, TrialFailed

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

KEYS = ("low", "high", "log", "choices", "default")

__all__ = ["TrialFailed", "none_worked", "problem", "space"]


def problem(objective: str, space: str | None = None, steps: int | None = None) -> Problem:
    """Return the problem of an own objective.

    objective: "package.module:function". space: a TOML file, or "package.module:function"; without one the objective
    returns a `Problem`. steps: how many numbers a trial yields, if the function doesn't say so itself.
    Raise `UserError` that says what to do, if either is not such as can be used.
    """
    function = resolve(objective)
    if not space:
        return _whole(function, objective)
    parameters, default = _space(space)
    seeded = "seed" not in parameters and "seed" in _names(function)
    ask = _Asking(function, _takes_one(function, objective, parameters), seeded)
    length = _steps(function, objective, steps)
    return Problem(_name(objective), parameters, ask, length, default, note=f"{objective} over {space}")


def space(address: str) -> Space:
    """Return an own space: of a TOML file, or of what a function "package.module:function" returns.

    Raise `UserError` that names the parameter, what was got, and what is allowed.
    """
    return _space(address)[0]


def none_worked(trials: int, reason: str) -> UserError:
    """Return the error of a search of which every trial failed. reason: the last one's."""
    return UserError(
        f"{'the only trial' if trials == 1 else f'all {trials} trials'} failed, at last with: {reason}; try the "
        "objective with one setting by hand, or narrow the space"
    )


# The objective --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asking:
    """The trials of an own function."""

    function: Callable[..., Any]
    takes_one: bool
    seeded: bool

    def __call__(self, setting: Setting, seed: int) -> Iterator[Step]:
        """Yield what the function returns, or each number that it yields, with the seconds that it took for it."""
        numbers = self._numbers(dict(setting), {"seed": seed} if self.seeded else {})
        while True:
            began = time.perf_counter()
            try:
                given = next(numbers)
            except StopIteration:
                return
            except TrialFailed:
                raise
            except Exception as error:  # whatever it raises costs this trial, not the search
                raise TrialFailed(_one_line(error)) from error
            yield Step(_loss(given), time.perf_counter() - began)

    def _numbers(self, setting: dict[str, Any], seed: dict[str, int]) -> Iterator[Any]:
        given = self.function(setting, **seed) if self.takes_one else self.function(**setting, **seed)
        if isinstance(given, Iterator):
            yield from given
        else:
            yield given


def _loss(given: Any) -> float:
    try:
        loss = float(given)
    except (TypeError, ValueError):
        raise TrialFailed(f"it gave {given!r:.60}, not a number") from None
    if not math.isfinite(loss):
        raise TrialFailed(f"its loss was {loss}")
    return loss


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _whole(function: Callable[..., Any], objective: str) -> Problem:
    needed = [p.name for p in _parameters(function) if p.default is p.empty and p.kind not in _VARIADIC]
    if needed:
        raise UserError(
            f"{objective} takes {', '.join(needed)}, so it needs a space to draw them from; give space='space.toml'"
        )
    made = call(function, {})
    if not isinstance(made, Problem):
        raise UserError(
            f"{objective} returned {type(made).__name__}; without a space it returns a kit.techniques.tuning.problem."
            "Problem; else give space='space.toml'"
        )
    return made


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some that are written in C don't tell
        return [inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD)]


def _names(function: Callable[..., Any]) -> list[str]:
    return [p.name for p in _parameters(function) if p.kind not in _VARIADIC]


def _takes_one(function: Callable[..., Any], objective: str, parameters: Space) -> bool:
    """Return whether the function takes a setting as one dict; else it takes each parameter by its name.

    Raise `UserError` where it can take it neither way.
    """
    declared = _parameters(function)
    names = [name for name in _names(function) if name != "seed" or name in parameters]
    needed = [p.name for p in declared if p.name in names and p.default is p.empty]
    known = any(get_close_matches(name, parameters, cutoff=0.75) for name in names)
    if not known and (len(needed) == 1 or len(names) == 1):
        return True
    if not any(p.kind is p.VAR_KEYWORD for p in declared):
        for name in parameters:
            if name not in names:
                hint = _nearest(name, names)
                raise UserError(f"{objective} takes no {name!r}, which the space has; {hint}it takes {_listed(names)}")
    for name in needed:
        if name not in parameters:
            hint = _nearest(name, parameters)
            raise UserError(f"{objective} needs {name!r}, which the space lacks; {hint}it has {_listed(parameters)}")
    return False


def _steps(function: Callable[..., Any], objective: str, steps: int | None) -> int:
    found = getattr(function, "steps", None) if steps is None else steps
    if found is None:
        if inspect.isgeneratorfunction(function):
            name = _name(objective)
            raise UserError(f"{objective} yields numbers; say how many, by {name}.steps = 10 below it")
        return 1
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"{objective} has steps={found!r}; give a whole number, 1 or more")
    return found


def _name(objective: str) -> str:
    return objective.rpartition(":")[2]


# The space ------------------------------------------------------------------------------------------------------------


def _space(address: str) -> tuple[dict[str, "BaseDistribution"], dict[str, Any] | None]:
    """Return the space and its defaults, which are None where there are none."""
    given = call(resolve(address), {}) if ":" in address and not address.endswith(".toml") else _toml(address)
    if not isinstance(given, Mapping):
        raise UserError(f"{address} returned {type(given).__name__}; let it return a dict, parameter → dict")
    if not given:
        raise UserError(f"{address} has no parameter; add one, as [learning_rate] with low = 1e-4 and high = 1.0")
    parameters, defaults = {}, {}
    for name, described in given.items():
        where = f"{address}: {name}"
        parameters[str(name)] = _distribution(where, described)
        if isinstance(described, Mapping) and "default" in described:
            defaults[str(name)] = _default(where, described["default"], parameters[str(name)])
    if defaults and (without := [name for name in parameters if name not in defaults]):
        raise UserError(f"{address}: {_listed(without)} has no default, which others have; give it to each, or to none")
    return parameters, defaults or None


def _toml(address: str) -> dict[str, Any]:
    path = Path(address).expanduser()
    if path.suffix != ".toml":
        raise UserError(
            f"space={address!r} is no .toml file and no function; give 'space.toml' or 'package.module:space'"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = get_close_matches(path.name, [one.name for one in path.parent.glob("*.toml")])
        hint = f"did you mean {near[0]}?" if near else "write one with [parameter], low and high, or choices"
        raise UserError(f"there is no file {address}; {hint}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{address} can't be read as TOML: {error}") from None


def _distribution(where: str, described: Any) -> "BaseDistribution":
    from optuna.distributions import BaseDistribution, CategoricalDistribution

    if isinstance(described, BaseDistribution):
        return described
    if not isinstance(described, Mapping):
        raise UserError(f"{where} is {described!r:.60}; give it low and high, or choices")
    for key in described:
        if key not in KEYS:
            raise UserError(f"{where} has {key!r}; {_nearest(key, KEYS)}it takes {_listed(KEYS)}")
    if "choices" not in described:
        return _range(where, described)
    if both := [key for key in ("low", "high", "log") if key in described]:
        raise UserError(f"{where} has choices and {_listed(both)}; give it choices, or low and high")
    return CategoricalDistribution(_choices(where, described["choices"]))


def _choices(where: str, choices: Any) -> list[Any]:
    if not isinstance(choices, list | tuple) or not choices:
        raise UserError(f"{where} has choices={choices!r:.60}; give a list, as choices = ['a', 'b']")
    if odd := [one for one in choices if not isinstance(one, str | int | float | bool | None)]:
        raise UserError(f"{where} has the choice {odd[0]!r:.60}; a choice is a text, a number, true or false")
    if len({(type(one), one) for one in choices}) < len(choices):
        raise UserError(f"{where} has a choice twice in {choices!r:.80}; name each once")
    return list(choices)


def _range(where: str, described: Mapping[str, Any]) -> "BaseDistribution":
    from optuna.distributions import FloatDistribution, IntDistribution

    ends = [_end(where, key, described) for key in ("low", "high")]
    log, whole = described.get("log", False), all(isinstance(end, int) for end in ends)
    if not isinstance(log, bool):
        raise UserError(f"{where} has log={log!r:.60}; it is true or false")
    low, high = ends if whole else map(float, ends)
    if low > high:
        raise UserError(f"{where} has low={low:g} above high={high:g}; exchange them")
    if log and low <= 0:
        raise UserError(f"{where} has low={low:g} on a log scale, which begins above 0; raise low, or leave out log")
    return (IntDistribution if whole else FloatDistribution)(low, high, log=log)


def _end(where: str, key: str, described: Mapping[str, Any]) -> int | float:
    if key not in described:
        raise UserError(f"{where} has no {key}; give it low and high, or choices")
    value = described[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where} has {key}={value!r:.60}; give a number, as {key} = 0.5, without quotes")
    return value


def _default(where: str, value: Any, kind: "BaseDistribution") -> Any:
    """Return a default as the parameter's own type. Raise `UserError` if it lies outside."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(kind, CategoricalDistribution):
        if not any(type(one) is type(value) and one == value for one in kind.choices):
            raise UserError(f"{where} has default={value!r:.60}, which is none of its choices: {_listed(kind.choices)}")
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = isinstance(kind, FloatDistribution) or isinstance(value, int)
    if not (number and whole and kind.low <= value <= kind.high):
        what = "a number" if isinstance(kind, FloatDistribution) else "a whole number"
        raise UserError(f"{where} has default={value!r:.60}; give {what} from {kind.low:g} to {kind.high:g}")
    return float(value) if isinstance(kind, FloatDistribution) else value


def _nearest(name: str, names: Any) -> str:
    near = get_close_matches(name, list(map(str, names)), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) or "nothing"
