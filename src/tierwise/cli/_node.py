"""``tierwise node``."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from tierwise.runtime import NodeSpec

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise node --listen 127.0.0.1:8001
  tierwise node --listen 0.0.0.0:8001 --tier edge --repository /var/lib/tierwise
  tierwise node --config node.toml --check
  tierwise node --listen 0.0.0.0:8001 --tls-certificate node.pem --tls-key node.key --tokens tokens.json
  tierwise node --require-signature keys/           (only artifacts that one of keys/*.pub signed)
  tierwise node --listen 127.0.0.1:0 --listen unix:/run/tierwise.sock   (port 0: the system picks one, printed)
"""

# Options that are shorter than the keys of the spec they set.
_KEYS = {
    "pace": "pace_frac",
    "metrics": "metrics_listen",
    "log_requests": "request_log_frac",
    "traces": "trace_endpoint",
    "trace_requests": "trace_frac",
}
# Options of the tables ``observability`` and ``security``; the others stand at the top.
_OBSERVABILITY = ("metrics", "log_level", "log_format", "log_requests", "traces", "trace_requests")
_SECURITY = ("tls_certificate", "tls_key", "client_authority", "tokens", "require_signature")


def _addresses(ctx: click.Context, option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    for address in given:
        if not re.fullmatch(r"unix:.+|.+:\d{1,5}", address):
            raise click.BadParameter(f"{address!r} is neither HOST:PORT nor unix:PATH")
    return given


@click.command(epilog=_EPILOG)
@click.option(
    "--listen",
    "listen",
    metavar="ADDRESS",
    multiple=True,
    callback=_addresses,
    default=("127.0.0.1:8001",),
    show_default=True,
    help="HOST:PORT or unix:PATH; may be given several times.",
)
@click.option(
    "--rest",
    metavar="ADDRESS",
    multiple=True,
    callback=_addresses,
    help="HOST:PORT or unix:PATH for REST beside gRPC; may be given several times.",
)
@click.option("--tier", default="node", show_default=True, help="Name this node carries in timings and errors.")
@click.option(
    "--cpus", type=click.FloatRange(min=0, min_open=True), help="CPUs to use [default: what the quota allows]."
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads per model [default: the CPUs, rounded down].")
@click.option(
    "--pace",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Emulate a slower machine: stretch computing by 1/PACE.",
)
@click.option(
    "--repository", type=click.Path(path_type=Path), help="Folder for received artifacts [default: temporary]."
)
@click.option(
    "--training-folder",
    type=click.Path(path_type=Path),
    help="Folder below which trainings may find their pictures [default: none; batches are sent].",
)
@click.option("--metrics", metavar="HOST:PORT", help="Answer /metrics there over HTTP (Prometheus).")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "text"]),
    default="auto",
    show_default=True,
    help="One event a line on stderr; auto: text on a terminal.",
)
@click.option(
    "--log-requests",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the answered requests to log one by one.",
)
@click.option("--traces", metavar="URL", help="OTLP/gRPC receiver of traces (needs tierwise[otel]).")
@click.option(
    "--trace-requests",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the requests that start a trace here; those within one are recorded as it says.",
)
@click.option("--tls-certificate", metavar="PEM", help="Secure TCP addresses with TLS; needs --tls-key.")
@click.option("--tls-key", metavar="PEM", help="Private key of the certificate.")
@click.option(
    "--client-authority", metavar="PEM", help="Serve only clients with a certificate of these authorities (mutual TLS)."
)
@click.option("--tokens", metavar="FILE", help="Who is not on this machine must show a token of this file.")
@click.option(
    "--require-signature",
    metavar="KEYS",
    multiple=True,
    help="Serve only artifacts that this public key, or one of a folder's, signed; repeat it.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file of the node's spec; other options given replace what it says.",
)
@click.option(
    "--check", "only_check", is_flag=True, help="Say what would keep the node from serving, and exit (0 or 2)."
)
@click.pass_context
def command(ctx: click.Context, /, config: Path | None, only_check: bool, **options: Any) -> None:
    """Serve models on this tier: a small server without torch that speaks the Open Inference Protocol v2.

    Models arrive through the protocol's repository extension and are verified before they are served. Stop it with
    Ctrl-C or SIGTERM.
    """
    from tierwise._config import convert
    from tierwise.runtime import NodeSpec, serve

    # Through plain data, so that what the options say is checked as the file is.
    plain = _plain(ctx, config, options)
    spec = convert(plain, NodeSpec, where="tierwise node" if config is None else str(config))
    if not only_check:
        # The node knows of training only how to start its process, which alone imports what training needs.
        serve(spec, (sys.executable, "-m", "tierwise", "train", "worker"))
        _end()
    _say_what_hinders(spec)


def _plain(ctx: click.Context, config: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """What the file says, with what the options say in its place; without a file, their defaults too."""
    from tierwise._config import load_toml

    plain = {} if config is None else load_toml(config, dict[str, Any])
    security = {name: options.pop(name) for name in _SECURITY}
    given = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in options.items()
        if config is None or ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    told = {_KEYS.get(name, name): given.pop(name) for name in _OBSERVABILITY if name in given}
    plain |= {_KEYS.get(name, name): value for name, value in given.items()}
    for table, own in (("observability", told), ("security", _security(**security))):
        # What is no table stays, and is refused as what it is.
        if isinstance(plain.setdefault(table, {}), dict):
            plain[table] = _within(plain[table], own)
    return plain


def _say_what_hinders(spec: NodeSpec) -> None:
    from tierwise.runtime import cautions, check

    for caution in cautions(spec):
        click.echo(f"tierwise: caution: {caution}", err=True)
    problems = check(spec)
    for problem in problems:
        click.echo(f"tierwise: {problem}", err=True)
    if problems:
        raise SystemExit(2)
    click.echo(f"tierwise node {spec.tier}: could serve on {', '.join(spec.listen)}")


def _security(
    tokens: str | None, require_signature: tuple[str, ...], client_authority: str | None, **tls: str | None
) -> dict[str, Any]:
    """The table ``security``, with what was given only."""
    pair = {key.removeprefix("tls_"): name for key, name in tls.items()} | {"client_authority": client_authority}
    given = {key: name for key, name in pair.items() if name is not None}
    table: dict[str, Any] = {"tls": given} if given else {}
    if tokens is not None:
        table["tokens"] = tokens
    if require_signature:
        table |= {"require_signature": True, "trusted_keys": require_signature}
    return table


def _end() -> NoReturn:
    """End the process though a model computes: Python itself would wait until its thread is done, however long."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _within(table: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """A table of the file with what the options say in its place, tables within it too."""
    merged = dict(table)
    for key, value in options.items():
        inner = merged.get(key)
        merged[key] = (
            _within(inner or {}, value) if isinstance(value, dict) and isinstance(inner or {}, dict) else value
        )
    return merged
