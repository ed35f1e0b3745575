"""The build process: imports an application and reports which deployments it has.

Owns the child side of a build: stdin and status descriptor. It serves nothing and keeps nothing; the worker starts
one for each Build, and ends it. Never imports grpc.
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import os
import sys

from mesh import lifecycle, model, wire
from mesh.errors import MeshError, Unreachable
from mesh.v1 import deployment_pb2, worker_service_pb2
from mesh.worker.failures import failure_of
from mesh.worker.interface import interface_of
from mesh.worker.launch import enter, framed, read_message, take_stdin
from mesh.worker.user_code import load_application, user_error


def main(arguments: list[str] | None = None) -> int:
    """Read an ApplicationConfig from stdin, load it, write one BuildResult to the status descriptor.

    Returns the exit code: 0 built, 1 failed (the BuildResult says why, unless the parent is gone).
    """
    parser = argparse.ArgumentParser(prog="python -m mesh.worker.build")
    parser.add_argument("--status-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args(arguments)
    # What native code dies of is printed, with the line of Python that called it.
    faulthandler.enable(all_threads=False)
    os.set_inheritable(options.status_fd, False)
    lifeline = take_stdin()
    try:
        payload = read_message(lifeline)
    except Unreachable:
        return 1
    lifecycle.bind_to_parent(options.parent, lifeline)
    config = wire.from_proto(deployment_pb2.ApplicationConfig.FromString(payload), model.ApplicationConfig)
    enter(config.runtime_env.working_dir)
    result = build(config)
    with open(options.status_fd, "wb") as status:
        status.write(framed(result.SerializeToString()))
    return 1 if result.HasField("failure") else 0


def build(config: model.ApplicationConfig) -> worker_service_pb2.BuildResult:
    """Load the application that `config` names and return what is in it, or why it cannot be loaded."""
    result = worker_service_pb2.BuildResult()
    try:
        application = load_application(config)
        bound = application.bound()
        for deployment in application.built():
            interface = interface_of(bound[deployment.config.name].deployment.target)
            built = dataclasses.replace(deployment, interface=interface)
            result.deployments.append(wire.to_proto(built, worker_service_pb2.BuiltDeployment))
    except MeshError as error:
        result.failure.CopyFrom(wire.to_proto(failure_of(error), deployment_pb2.Failure))
    except Exception as error:
        result.failure.CopyFrom(wire.to_proto(failure_of(user_error(error)), deployment_pb2.Failure))
    return result


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: threads that user code started at import would keep the process alive.
    os._exit(code)
