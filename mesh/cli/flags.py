"""Flags that several commands share, and how a command takes a group of them as one value.

Owns flag names, help texts and which environment variable stands in for which flag. Decides nothing. Imported by the
commands; typer is all it loads.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh import settings
from mesh.security import Security
from mesh.settings import ADDRESS_ENV, ADMIN_PORT, CONTROL_PORT, GRPC_PORT, HTTP_PORT, LOOPBACK, MESSAGE_BYTES_MAX

CONTROL = f"{LOOPBACK}:{CONTROL_PORT}"
_MIB = 1024 * 1024
_PORT = re.compile(r"[1-9][0-9]{0,4}")


class Output(StrEnum):
    """Form of what a command writes to stdout."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class LogFormat(StrEnum):
    """Form of log lines."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


def _port(help_text: str, default: int, *names: str) -> Any:
    return typer.Option(
        *names, min=0, max=65535, show_default=str(default), help=f"{help_text} 0: a free one.", metavar="PORT"
    )


@dataclasses.dataclass(frozen=True, slots=True)
class OutputFlags:
    """Form of the answer."""

    output: Annotated[Output, typer.Option("--output", "-o", help="Form of the answer.")] = Output.TABLE


_PANEL = "Security"


def _file(help_text: str, environment: str) -> Any:
    return typer.Option(help=help_text, envvar=environment, rich_help_panel=_PANEL, metavar="FILE")


Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Listen beyond this machine without token or TLS.", rich_help_panel=_PANEL),
]


@dataclasses.dataclass(frozen=True, slots=True)
class CredentialFlags:
    """How a process shows the others of its mesh who it is."""

    token_file: Annotated[Path | None, _file("Token that all of one mesh share.", settings.TOKEN_FILE_ENV)] = None
    tls_cert: Annotated[Path | None, _file("Certificate of this process; turns TLS on.", settings.TLS_CERT_ENV)] = None
    tls_key: Annotated[Path | None, _file("Key of the certificate.", settings.TLS_KEY_ENV)] = None
    tls_ca: Annotated[Path | None, _file("CA that signed all certificates.", settings.TLS_CA_ENV)] = None
    tls_server_name: Annotated[
        str,
        typer.Option(
            help="Name in the others' certificates, if not their host.",
            envvar=settings.TLS_SERVER_NAME_ENV,
            rich_help_panel=_PANEL,
            metavar="NAME",
        ),
    ] = ""
    insecure = False  # a flag of those that listen only

    def security(self) -> Security:
        """Return what was said, with absolute paths."""
        files = (self.token_file, self.tls_cert, self.tls_key, self.tls_ca)
        token, cert, key, ca = (str(file.absolute()) if file is not None else "" for file in files)
        return Security(token, cert, key, ca, self.tls_server_name, self.insecure)


@dataclasses.dataclass(frozen=True, slots=True)
class ClientFlags(CredentialFlags):
    """Where the control plane is, and who asks."""

    address: Annotated[
        str,
        typer.Option(help="Control plane, as HOST:PORT[,HOST:PORT…].", envvar=ADDRESS_ENV, metavar="ADDRESSES"),
    ] = CONTROL

    def addresses(self) -> tuple[str, ...]:
        """Return the addresses. Raises typer.BadParameter unless each is HOST:PORT."""
        return _addresses(self.address, "--address")


@dataclasses.dataclass(frozen=True, slots=True)
class ControlFlags(CredentialFlags):
    """Where a worker or gateway finds the control plane, and how it shows who it is."""

    control: Annotated[
        str,
        typer.Option(
            "--control",
            "--address",
            help="Control planes, as HOST:PORT[,HOST:PORT…].",
            envvar=ADDRESS_ENV,
            metavar="ADDRESSES",
        ),
    ] = CONTROL

    def addresses(self) -> tuple[str, ...]:
        """Return the addresses. Raises typer.BadParameter unless each is HOST:PORT."""
        return _addresses(self.control, "--control")


@dataclasses.dataclass(frozen=True)
class EnvironmentFlags:
    """Where a worker keeps code and installed packages, and what it may do to get them."""

    cache_dir: Annotated[
        Path | None,
        typer.Option(help="Directory for fetched code and installed packages.", show_default="~/.cache/mesh"),
    ] = None
    cache_size: Annotated[
        float,
        typer.Option(min=0, help="GiB above which what no replica uses is removed from there.", metavar="GIB"),
    ] = 20.0
    environment_timeout: Annotated[
        float,
        typer.Option(min=1, max=3000, help="Seconds for fetching and installing what code needs.", metavar="SECONDS"),
    ] = 600.0

    allow_private_urls: Annotated[
        bool,
        typer.Option("--allow-private-urls", help="Fetch code from private, loopback and link-local addresses too."),
    ] = False

    def applied(self, base: settings.WorkerSettings) -> settings.WorkerSettings:
        """Return the settings with these values in them."""
        return dataclasses.replace(
            base,
            cache_dir=str(self.cache_dir or ""),
            cache_bytes_max=int(self.cache_size * 1024**3),
            environment_timeout_s=self.environment_timeout,
            allow_private_urls=self.allow_private_urls,
        )


@dataclasses.dataclass(frozen=True)
class WorkerFlags(EnvironmentFlags, ControlFlags):
    """The same for one whose replicas listen, and run in environments."""

    insecure: Insecure = False


@dataclasses.dataclass(frozen=True, slots=True)
class WaitFlags:
    """Whether and how long to wait for a change to come true."""

    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has come true.")] = True
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait at most.", metavar="SECONDS")] = 300.0


@dataclasses.dataclass(frozen=True, slots=True)
class EventFlags:
    """Which events."""

    since: Annotated[
        str, typer.Option(help="How far to look back: 90s, 10m, 2h, 1d.", metavar="DURATION", show_default="all")
    ] = ""
    replica: Annotated[str, typer.Option(help="Of this replica only.", metavar="ID")] = ""
    worker: Annotated[str, typer.Option(help="Of this worker only.", metavar="ID")] = ""
    warnings: Annotated[bool, typer.Option("--warnings", help="Warnings only.")] = False


@dataclasses.dataclass(frozen=True, slots=True)
class ListenFlags:
    """Where a whole mesh in one process tree listens."""

    host: Annotated[str | None, typer.Option(help="Address for HTTP and gRPC.", show_default=LOOPBACK)] = None
    port: Annotated[int | None, _port("Port for HTTP.", HTTP_PORT, "--port")] = None
    grpc_port: Annotated[int | None, _port("Port for gRPC.", GRPC_PORT, "--grpc-port")] = None
    control_port: Annotated[int, _port("Port of the control plane.", CONTROL_PORT, "--control-port")] = CONTROL_PORT
    message_bytes_max: Annotated[
        int,
        typer.Option("--message-bytes", min=1024, max=256 * 1024 * 1024, help="Bytes of one gRPC message, at most."),
    ] = MESSAGE_BYTES_MAX


@dataclasses.dataclass(frozen=True)
class LocalFlags(EnvironmentFlags, ListenFlags):
    """A whole mesh in one process tree: where it listens, and the environments of its worker."""

    def worker(self) -> settings.WorkerSettings:
        """Return the settings of the worker."""
        return self.applied(settings.WorkerSettings())


@dataclasses.dataclass(frozen=True, slots=True)
class ImportFlags:
    """What else there is to say of an import path."""

    name: Annotated[str | None, typer.Option(help="Name of the application.", show_default="default")] = None
    route_prefix: Annotated[str | None, typer.Option(help="Its route over HTTP.", show_default="/")] = None
    working_dir: Annotated[
        Path | None, typer.Option(help="Directory to import from.", show_default="current directory")
    ] = None


@dataclasses.dataclass(frozen=True, slots=True)
class PackageFlags:
    """How much uploaded code a control plane keeps."""

    package_quota: Annotated[
        int, typer.Option(min=1, max=64 * 1024, help="MiB of uploaded code in the store, at most.", metavar="MIB")
    ] = settings.PACKAGE_QUOTA_BYTES // _MIB

    def applied(self, base: settings.ControlPlaneSettings) -> settings.ControlPlaneSettings:
        """Return the settings with this value in them."""
        return dataclasses.replace(base, package_quota_bytes=self.package_quota * _MIB)


@dataclasses.dataclass(frozen=True, slots=True)
class ControlPlaneFlags(PackageFlags):
    """What only a control plane of its own takes."""

    advertise: Annotated[
        str, typer.Option(help="HOST:PORT at which the others reach it.", show_default="host and port")
    ] = ""


@dataclasses.dataclass(frozen=True, slots=True)
class StoreFlags(PackageFlags):
    """Where the goal state is kept."""

    data_dir: Annotated[
        Path | None, typer.Option(help="Directory of the embedded store.", show_default="~/.local/state/mesh")
    ] = None
    store: Annotated[
        str, typer.Option(help="sqlite:///FILE or etcd://HOST:PORT[,HOST:PORT…]/PREFIX, instead.", metavar="URL")
    ] = ""


@dataclasses.dataclass(frozen=True, slots=True)
class LogLineFlags:
    """Which lines of logs."""

    tail: Annotated[
        int | None,
        typer.Option(
            min=0, max=10_000, help="Last lines of each replica.", show_default="100; 10 with -f", metavar="COUNT"
        ),
    ] = None
    since: Annotated[
        str, typer.Option(help="Only lines from then on: 90s, 10m, 2h, 1d ago, or a time in RFC 3339.", metavar="TIME")
    ] = ""
    replica: Annotated[str, typer.Option(help="Only this replica, or those whose ids begin so.", metavar="ID")] = ""
    previous: Annotated[
        bool, typer.Option("--previous", help="Of each replica only the last process that has ended.")
    ] = False
    request_id: Annotated[str, typer.Option(help="Only lines logged for this request.", metavar="ID")] = ""


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerIdentityFlags:
    """Who a worker is, and where it keeps what is to outlive it."""

    worker_id: Annotated[str, typer.Option("--id", help="Name.", show_default="host name and a random part")] = ""
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Directory for what replicas print.", show_default="~/.local/state/mesh; temporary without --id"
        ),
    ] = None


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessFlags:
    """What every serving process takes: the admin listener (metrics and probes), logs, form of the ready line."""

    admin_host: Annotated[str, typer.Option(help="Address for metrics and probes.")] = LOOPBACK
    admin_port: Annotated[int, _port("Port for metrics and probes.", ADMIN_PORT, "--admin-port")] = ADMIN_PORT
    log_level: Annotated[
        str, typer.Option(help="Least level to log.", metavar="DEBUG|INFO|WARNING|ERROR", show_default="INFO")
    ] = "INFO"
    log_format: Annotated[LogFormat, typer.Option(help="auto: text on a terminal, else JSON.")] = LogFormat.AUTO
    access_log: Annotated[bool, typer.Option("--access-log", help="Log a line for each request.")] = False
    output: Annotated[Output, typer.Option("--output", "-o", help="Form of the ready lines.")] = Output.TABLE

    def logs(self) -> settings.LogSettings:
        """Return the log settings. Raises typer.BadParameter on an unknown level."""
        level = self.log_level.upper()
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise typer.BadParameter(f"unknown level {self.log_level!r}", param_hint="--log-level")
        return settings.LogSettings(level, self.log_format.value, self.access_log)


@dataclasses.dataclass(frozen=True, slots=True)
class TrustFlags(CredentialFlags):
    """Whom a control plane takes calls from, and how it reaches an etcd that asks who it is."""

    insecure: Insecure = False
    etcd_ca_cert: Annotated[
        Path | None, typer.Option(help="CA certificate of etcd; turns TLS on.", rich_help_panel="etcd")
    ] = None
    etcd_cert: Annotated[Path | None, typer.Option(help="Client certificate.", rich_help_panel="etcd")] = None
    etcd_key: Annotated[Path | None, typer.Option(help="Key of the client certificate.", rich_help_panel="etcd")] = None
    etcd_user: Annotated[str, typer.Option(help="User name.", rich_help_panel="etcd")] = ""
    etcd_password_file: Annotated[
        Path | None, typer.Option(help="File that holds the password.", rich_help_panel="etcd")
    ] = None

    def applied(self, base: settings.ControlPlaneSettings) -> settings.ControlPlaneSettings:
        """Return the settings with these values in them."""
        return dataclasses.replace(
            base,
            security=self.security(),
            etcd_ca_cert=str(self.etcd_ca_cert or ""),
            etcd_cert=str(self.etcd_cert or ""),
            etcd_key=str(self.etcd_key or ""),
            etcd_user=self.etcd_user,
            etcd_password_file=str(self.etcd_password_file or ""),
        )


def _addresses(text: str, flag: str) -> tuple[str, ...]:
    """Return the addresses in "HOST:PORT[,HOST:PORT…]"; one of IPv6 has its host in brackets."""
    found = settings.control_addresses(text)
    wrong = next((address for address in found if not _is_address(address)), None)
    if not found or wrong is not None:
        problem = f"{wrong!r} is not HOST:PORT" if found else "there is no address"
        where = f"{flag} or {ADDRESS_ENV}"
        raise typer.BadParameter(f"{problem}; write HOST:PORT[,HOST:PORT…]", param_hint=where)
    return found


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host.replace(":", " ")
    return bool(bare) and not set(bare) & set(" /@[]") and _PORT.fullmatch(port) is not None and int(port) < 65536


def expanded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return `command` as typer takes it: each parameter whose type is a group above becomes the group's flags."""
    hints = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, tuple[Any, list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        hint = hints[name]
        if not dataclasses.is_dataclass(hint):
            parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        fields = typing.get_type_hints(hint, include_extras=True)
        groups[name] = (hint, list(fields))
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=fields[field.name]
            )
            for field in dataclasses.fields(hint)
        ]

    def called(**values: Any) -> Any:
        for name, (group, fields) in groups.items():
            values[name] = group(**{field: values.pop(field) for field in fields})
        return command(**values)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called
