"""The root command: subcommands are imported when they are called, so that a node starts fast."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import final

import click

from tierwise import __version__
from tierwise._errors import TierwiseError

__all__ = ["main"]

_COMMANDS = {
    "artifact": ("tierwise.cli._artifact", "Sign artifacts, and see who vouches for one."),
    "console": ("tierwise.cli._console", "One live page: nodes, links, deployments, where the time goes."),
    "deploy": ("tierwise.cli._deploy", "Put a strategy of a study on nodes that run, checked end to end."),
    "doctor": ("tierwise.cli._doctor", "What this machine can do for a study, and how to get what it lacks."),
    "infer": ("tierwise.cli._infer", "Send an item to a node and print the answer."),
    "node": ("tierwise.cli._node", "Serve models on this tier (Open Inference Protocol v2, gRPC)."),
    "recommend": ("tierwise.cli._recommend", "Which deployment to take, from a study, and how sure that is."),
    "study": ("tierwise.cli._study", "Build, measure and compare deployment strategies."),
    "tasks": ("tierwise.cli._tasks", "What can be deployed: built-in tasks and how to bring your own."),
    "token": ("tierwise.cli._token", "Make and revoke the tokens a node lets strangers in with."),
    "topologies": ("tierwise.cli._topologies", "Named sets of tiers and links."),
    "train": ("tierwise.cli._train", "Compile a training step, and train with it on this machine, without torch."),
    "undeploy": ("tierwise.cli._undeploy", "Take a deployment off its nodes."),
}

_EPILOG = """\b
Examples:
  tierwise study run digits                   build, measure, compare; writes study-digits/report.html
  tierwise node --listen 0.0.0.0:8001         serve models on this machine
  tierwise doctor                             what this machine can emulate
"""


@final
class _LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it or to print its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_COMMANDS.items())])


@click.group(
    cls=_LazyGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="tierwise")
@click.option("--debug", is_flag=True, help="Show the traceback of an error (anywhere on the line).")
def _root(debug: bool) -> None:
    """Find, build, measure and run the best deployment of a trained model over mobile, edge and cloud tiers."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 well, 2 wrong input, 3 to 6 see ``_errors``, 130 interrupted.

    An error Tierwise raises on purpose is one line on stderr; ``--debug`` adds the traceback.
    """
    # gRPC's own log lines repeat what our errors say, in another form.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    try:
        _root.main([word for word in given if word != "--debug"], prog_name="tierwise", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.exceptions.NoArgsIsHelpError as wrong:
        wrong.show()
        sys.exit(wrong.exit_code)
    except click.ClickException as wrong:
        where = wrong.ctx.command_path if isinstance(wrong, click.UsageError) and wrong.ctx else "tierwise"
        click.echo(f"tierwise: {wrong.format_message().rstrip('.')}. `{where} --help` shows how.", err=True)
        sys.exit(wrong.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("tierwise: interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, less) has seen enough; nothing is wrong, and Python must not complain at exit either.
        sys.stdout = None
        sys.exit(0)
    except TierwiseError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"tierwise: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:  # a defect of ours: still one readable line, and how to see more
        if debug:
            raise
        click.echo(
            f"tierwise: unexpected {type(error).__name__}: {error}. This is a defect; the same command with --debug "
            "shows where.",
            err=True,
        )
        sys.exit(1)
