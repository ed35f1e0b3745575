"""The one instance of user code in a replica: constructs it and hands it its user_config.

Owns the hooks that user classes may have (`__call__`, `reconfigure`), and which ASGI application answers for it. Never
answers requests: `handler` and `asgi_calls` do. Called by `replica`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from mesh.errors import UserCodeError
from mesh.model import ReplicaSpec
from mesh.serving.asgi import AsgiApplication, hosted
from mesh.serving.deployment import Application
from mesh.serving.handle import get_handle
from mesh.serving.options import option_field
from mesh.transcode.collect import collect, handlers
from mesh.worker.asgi_routes import bind_methods
from mesh.worker.user_code import load_application, user_error


class Instance:
    """User code that is ready to be called: `asgi`, else `target`, if it is callable, for HTTP; `methods` for gRPC."""

    def __init__(
        self, deployment: str, target: Any, field: str = "import_path", methods: Mapping[str, Any] | None = None
    ) -> None:
        """`field` is what sets the user_config, as a path in the application's config."""
        self.target = target
        self.asgi: AsgiApplication | None = None
        """The application that an ingress answers HTTP by."""
        self.methods = methods or {}
        """grpcio's handler of each method by "/package.Service/Method"."""
        self._deployment = deployment
        self._field = field
        self._user_config_json = ""
        self._half_taken = False
        """Whether a hook began to take another value and did not come to its end."""

    async def reconfigure(self, user_config_json: str) -> None:
        """Call `reconfigure(user_config)`, sync or async, if this user_config is not in force yet, or not for sure.

        Raises UserCodeError if it raised, or if user code has no such method; the old value stays in force then.
        """
        # What it left half done is undone by the old value, where there is one.
        if user_config_json == self._user_config_json and not (self._half_taken and user_config_json):
            return
        hook = getattr(self.target, "reconfigure", None)
        if not callable(hook):
            text = f"user_config is set, but {self._deployment} has no method reconfigure(self, user_config)"
            raise UserCodeError(text, field=self._field, hint="leave user_config out, or add the method")
        self._half_taken = True
        try:
            result = hook(json.loads(user_config_json) if user_config_json else None)
            if inspect.isawaitable(result):
                await result
        except (Exception, SystemExit) as error:
            told = user_error(error)
            hint = f"mend user_config, or {self._deployment}.reconfigure"
            raise UserCodeError(told.message, traceback=told.traceback, field=self._field, hint=hint) from None
        self._user_config_json, self._half_taken = user_config_json, False


def construct(spec: ReplicaSpec) -> Instance:
    """Import the application and make this deployment's instance. Raises UserCodeError or InvalidConfig."""
    return instance_of(load_application(spec.config), spec)


def instance_of(application: Application, spec: ReplicaSpec) -> Instance:
    """Make the instance of one deployment of an application. Raises UserCodeError or InvalidConfig."""
    deployments = application.bound()
    if (bound := deployments.get(spec.deployment)) is None:
        text = f"the code has no deployment {spec.deployment!r} any more; it has {', '.join(deployments)}"
        raise UserCodeError(text, hint="deploy again, so that the application is built anew")
    target, field = bound.deployment.target, option_field(spec.config, spec.deployment, "user_config")
    if not isinstance(target, type):
        return Instance(spec.deployment, target, field)
    args, kwargs = bound.arguments(lambda name: get_handle(spec.application, name))
    try:
        made = target(*args, **kwargs)
    except (Exception, SystemExit) as error:
        raise user_error(error) from None
    collected = collect(target)
    asgi = hosted(target)
    # One that is not the ingress may be called by handles only.
    is_ingress = spec.deployment == next(iter(deployments))
    if collected is None and asgi is None and not callable(made) and is_ingress:
        text = f"{spec.deployment} has no __call__ method and is no gRPC servicer, so it cannot answer requests"
        raise UserCodeError(text, hint=f"give {spec.deployment} a method __call__(self, request)")
    methods = {
        f"/{service.full_name}/{name}": handler
        for service in (collected.services if collected is not None else ())
        for name, handler in handlers(made, service).items()
    }
    instance = Instance(spec.deployment, made, field, methods)
    if asgi is not None:
        bind_methods(asgi, made)
        instance.asgi = asgi
    return instance
