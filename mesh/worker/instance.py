"""The one instance of user code in a replica: constructs it and hands it its user_config.

Owns the hooks that user classes may have (`__call__`, `reconfigure`). Never answers requests: `handler` does.
Called by `replica`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

from mesh.errors import UserCodeError
from mesh.model import ReplicaSpec
from mesh.worker.user_code import load_application, user_error


class Instance:
    """User code that is ready to be called by `target`."""

    def __init__(self, deployment: str, target: Callable[..., Any]) -> None:
        self.target = target
        self._deployment = deployment
        self._user_config_json = ""

    async def reconfigure(self, user_config_json: str) -> None:
        """Call `reconfigure(user_config)`, sync or async, if this user_config is not in force yet.

        Raises UserCodeError if it raised, or if user code has no such method; the old value stays in force then.
        """
        if user_config_json == self._user_config_json:
            return
        hook = getattr(self.target, "reconfigure", None)
        if not callable(hook):
            text = f"user_config is set, but {self._deployment} has no method reconfigure(self, user_config)"
            raise UserCodeError(text, traceback=text)
        try:
            result = hook(json.loads(user_config_json) if user_config_json else None)
            if inspect.isawaitable(result):
                await result
        except (Exception, SystemExit) as error:
            raise user_error(error) from None
        self._user_config_json = user_config_json


def construct(spec: ReplicaSpec) -> Instance:
    """Import the application and make this deployment's instance. Raises UserCodeError or DeployFailed."""
    bound = load_application(spec.config).bound()[spec.deployment]
    target = bound.deployment.target
    if not isinstance(target, type):
        return Instance(spec.deployment, target)
    try:
        made = target(*bound.args, **bound.kwargs)
    except (Exception, SystemExit) as error:
        raise user_error(error) from None
    if not callable(made):
        text = f"{spec.deployment} has no __call__ method, so it cannot answer requests"
        raise UserCodeError(text, traceback=text)
    return Instance(spec.deployment, made)
