"""``tierwise artifact``."""

from __future__ import annotations

from pathlib import Path

import click

from tierwise.cli._credentials import credentials

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise artifact keygen release.key                    the private key, and release.key.pub for the nodes
  tierwise artifact sign study-digits/artifacts/DIR --key release.key
  tierwise artifact verify study-digits/artifacts/DIR --keys release.key.pub
  tierwise node --require-signature release.key.pub       a node that serves nothing else
  tierwise artifact push learner 10.0.0.7:8001 digits     serve the artifact on a node, as digits
"""

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group(epilog=_EPILOG)
def command() -> None:
    """Sign artifacts, see who vouches for one, and put one on a node."""


@command.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def keygen(file: Path) -> None:
    """Make a pair of Ed25519 keys: FILE, which signs and is yours alone, and FILE.pub, which nodes verify with."""
    from tierwise.artifact import new_signing_key

    made = new_signing_key(file)
    click.echo(f"{file}: private key, keep it to yourself")
    click.echo(f"{made.file}: public key {made.id}, for nodes (--require-signature)")


@command.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("--key", required=True, type=click.Path(dir_okay=False, path_type=Path), help="PEM of a private key.")
def sign(directory: Path, key: Path) -> None:
    """Vouch for the artifact in DIRECTORY as it is now; others' signatures stay."""
    from tierwise.artifact import open_artifact
    from tierwise.artifact import sign as sign_artifact

    made = sign_artifact(open_artifact(directory), key)
    click.echo(f"{directory}: signed by key {made.key}")


@command.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("--keys", multiple=True, help="Public key, or folder of some; repeat it [default: only check the files].")
def verify(directory: Path, keys: tuple[str, ...]) -> None:
    """Check every file of the artifact in DIRECTORY, and that one of KEYS signed it."""
    from tierwise.artifact import open_artifact, read_signatures, trusted_keys
    from tierwise.artifact import verify as verify_artifact

    artifact = open_artifact(directory)
    if not keys:
        signers = ", ".join(signature.key for signature in read_signatures(artifact)) or "nobody"
        click.echo(f"{directory}: all {len(artifact.manifest.files)} files are as the manifest says")
        click.echo(f"signed by {signers} (not verified; give --keys)")
        return
    key = verify_artifact(artifact, trusted_keys(keys))
    click.echo(f"{directory}: all {len(artifact.manifest.files)} files are as signed by key {key.id} ({key.file})")


@command.command()
@click.argument("directory", type=_DIRECTORY)
@click.argument("node", metavar="ADDRESS")
@click.argument("model", required=False)
@credentials
def push(directory: Path, node: str, model: str | None) -> None:
    """Have the node at ADDRESS serve the artifact in DIRECTORY, whole, as MODEL [default: its own name]."""
    from tierwise.artifact import open_artifact, read_files
    from tierwise.wire import InferenceClient

    artifact = open_artifact(directory)
    name = model or artifact.manifest.name
    with InferenceClient(node) as client:
        client.load(name, None, read_files(artifact))
    click.echo(f"{node} serves {name} (artifact {artifact.digest[:12]})")
