"""Deployments as user code declares them: the decorator, `options`, `bind`, and what is bound.

Owns the declaration only; it imports nothing heavy and runs nothing. The replica and the build read it.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, overload

from mesh.errors import InvalidConfig, Problem
from mesh.model import BuiltDeployment, DeploymentConfig
from mesh.serving.batch import Batched
from mesh.serving.graph import TooDeep, found, replaced
from mesh.serving.options import as_fields, joined_json, name_problem, option_problems

Target = Callable[..., Any]
"""A class whose instances are called, or a function that is called itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class Deployment:
    """A class or function with options. Made by `@mesh.deployment`; bind it to make an application."""

    target: Target
    config: DeploymentConfig

    @property
    def name(self) -> str:
        """Name of the deployment, unique in its application."""
        return self.config.name

    def options(self, **options: Any) -> Deployment:
        """Return the same deployment with other options. Raises InvalidConfig."""
        return Deployment(self.target, _configured(self.config, options))

    def bind(self, *args: Any, **kwargs: Any) -> Application:
        """Return the application whose ingress this is; the arguments go to the constructor in the replica."""
        return Application(self, args, kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: what is decorated runs in replicas. Raises TypeError that says so."""
        raise TypeError(f"deployment {self.name!r} is not called directly; use {self.name}.bind(...) and run it")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Application:
    """A bound deployment: what an import path names.

    Arguments of `bind` that are bound deployments themselves, alone or within containers, are deployments of the same
    application; the constructor gets handles in their place. The same object twice is one deployment.
    """

    deployment: Deployment
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def bound(self) -> dict[str, Application]:
        """Return each bound deployment by name, the ingress first. Raises InvalidConfig."""
        names = {self.deployment.name: self}
        pending = [self]
        while pending:
            parent = pending.pop(0)
            for child in parent._children():
                name = child.deployment.name
                first = names.get(name)
                if first is None:
                    names[name] = child
                    pending.append(child)
                    continue
                if first is child:
                    continue
                if first.deployment.target is child.deployment.target:
                    text = f"deployment {name!r} is bound twice, each time to something of its own"
                else:
                    text = f"two different deployments are called {name!r}"
                hint = f'give one of them another name, as in .options(name="{name}2").bind(...), or bind it once'
                raise InvalidConfig((Problem("", text, hint),))
        return names

    def arguments(self, handle: Callable[[str], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the constructor's arguments, with `handle(name)` in the place of each bound deployment."""

        def by(child: Application) -> Any:
            return handle(child.deployment.name)

        args, kwargs = replaced((self.args, dict(self.kwargs)), Application, by)
        return args, kwargs

    def _children(self) -> list[Application]:
        where = f"an argument of {self.deployment.name!r}.bind()"
        try:
            inside = list(found((self.args, dict(self.kwargs)), (Application, Deployment)))
        except TooDeep as error:
            raise InvalidConfig((Problem("", f"{where} is {error}", "bind less to it"),)) from None
        for each in inside:
            if isinstance(each, Deployment):
                text = f"{where} is the deployment {each.name!r}, which is not bound"
                raise InvalidConfig((Problem("", text, f"write {each.name}.bind(...) there"),))
        return inside

    def built(self) -> tuple[BuiltDeployment, ...]:
        """Return what a build reports of this application."""
        depths = self.depths()
        return tuple(
            BuiltDeployment(ingress=i == 0, config=bound.deployment.config, depth=depths[name])
            for i, (name, bound) in enumerate(self.bound().items())
        )

    def depths(self) -> dict[str, int]:
        """Return by name how many calls by handles away from the ingress each is, at most. Raises InvalidConfig.

        Callers are less deep than what they call, unless they call one another in a circle.
        """
        called = {name: [child.deployment.name for child in each._children()] for name, each in self.bound().items()}
        depths = dict.fromkeys(called, 0)
        for _ in called:  # no way without a circle is longer
            before = dict(depths)
            for caller, names in called.items():
                for name in names:
                    depths[name] = max(depths[name], depths[caller] + 1)
            if depths == before:
                break
        return depths


@overload
def deployment(target: Target, /) -> Deployment: ...
@overload
def deployment(
    *,
    name: str | None = None,
    num_replicas: int | None = None,
    max_ongoing_requests: int | None = None,
    max_queued_requests: int | None = None,
    user_config: Any = None,
    **options: Any,
) -> Callable[[Target], Deployment]: ...
def deployment(target: Target | None = None, /, **options: Any) -> Deployment | Callable[[Target], Deployment]:
    """Declare a class or function as a deployment.

    Options, all optional: `name` (default: that of the class or function), `num_replicas` (1),
    `max_ongoing_requests` (100, per replica), `max_queued_requests` (100 per caller; -1 unlimited, 0 never
    queue), `user_config` (a JSON value for `reconfigure`), `json` (how REST routes write JSON: a mapping of
    `emit_defaults`, `proto_names`, `enums_as_numbers` to bool), and in seconds `request_timeout_s`,
    `graceful_shutdown_timeout_s` (20), `health_check_period_s` (10), `health_check_timeout_s` (30),
    `startup_timeout_s` (60). Raises InvalidConfig on an unknown option or a bad value.
    """
    if target is not None:
        return _declared(target, {})
    return lambda target: _declared(target, options)


def _declared(target: Target, options: Mapping[str, Any]) -> Deployment:
    if isinstance(target, Deployment):
        raise InvalidConfig((Problem("", f"{target.name!r} is a deployment already", "use .options(...)"),))
    if not (inspect.isclass(target) or inspect.isfunction(target) or isinstance(target, Batched)):
        raise InvalidConfig((Problem("", f"a deployment is a class or a function, not {target!r}"),))
    return Deployment(target, _configured(DeploymentConfig(name=target.__name__), options))


def _configured(config: DeploymentConfig, options: Mapping[str, Any]) -> DeploymentConfig:
    values = {name: value for name, value in options.items() if value is not None}
    name = values.pop("name", config.name)
    problems = [*option_problems(values, at=str(name))]
    if not isinstance(name, str) or name_problem(name):
        problems.append(Problem("name", name_problem(str(name)) or f"must be text, not {name!r}"))
    if problems:
        raise InvalidConfig(tuple(problems))
    fields = as_fields(values)
    if "json" in fields:
        fields["json"] = joined_json(fields["json"], config.json)
    return dataclasses.replace(config, name=name, **fields)
