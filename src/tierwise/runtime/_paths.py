"""What an adaptive pipeline may choose from, and by which policy: frozen specs, and the TOML file that holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec

from tierwise._config import Spec, load_toml
from tierwise.artifact import InputEncoding
from tierwise.codecs import PictureFormat
from tierwise.runtime._breaker import BreakerSpec
from tierwise.runtime._chooser import Policy
from tierwise.wire import Credentials, load_keyring

__all__ = ["LONGEST_DEADLINE_S", "PathSpec", "Paths", "PictureFile", "load_paths"]

LONGEST_DEADLINE_S: Final = 86_400

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class PictureFile(Spec, frozen=True, kw_only=True):
    """A file that the device makes of each picture before it sends it.

    Attributes:
        kind: Its format.
        quality: 0 to 100, as the format counts it; png has none.
    """

    kind: PictureFormat = "webp"
    quality: Annotated[int, msgspec.Meta(ge=0, le=100)] = 75


class PathSpec(Spec, frozen=True, kw_only=True):
    """One way to an answer: a model on a node (which may pass requests on), or an artifact run in this process.

    Attributes:
        name: What answers and figures call it.
        accuracy_frac: Its model's accuracy; only the order between paths matters.
        node: Address of the node to ask; None where the artifact is run here.
        model: Name of the model there.
        artifact: Directory of an artifact to run in this process.
        link: Name of the link its requests cross; paths that cross the same one share what is known of it. None: the
            path stays on this device, and is what the others fall back to.
        over_link: Whether the link lies between this process and ``node`` (the node is not on this device).
        probe: Address of a node at the far end of the link, whose built-in probe measures the link while no request
            crosses it; None: ``node`` where that lies over the link, else the link is measured by requests only.
        channels: Channels of a coded latent that the node shall send, one of the artifact's rates: several paths may
            ask one deployed model at several rates. None: as the model's share says.
        picture: Requests hold pixels, and this path sends files instead, to a model that takes files. None: what the
            request holds is sent as it is.
        request_bytes: What its requests send over the link where that is known, such as a rate's `item_bytes`: before
            it has answered, the path is forecast from that and what is known of the link.
        input: How items become this path's tensors, where that differs from other paths'; None: as `Paths` says.
    """

    name: Name
    accuracy_frac: Annotated[float, msgspec.Meta(ge=0, le=1)]
    node: str | None = None
    model: str | None = None
    artifact: str | None = None
    link: Name | None = None
    over_link: bool = False
    probe: str | None = None
    channels: Annotated[int, msgspec.Meta(ge=1)] | None = None
    picture: PictureFile | None = None
    request_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    input: InputEncoding | None = None

    def __post_init__(self) -> None:
        """Check that it is one thing or the other."""
        if self.node is None and (self.channels is not None or self.picture is not None):
            raise ValueError(f"path {self.name!r} must name a node where it has channels or picture")
        if (self.node is None) == (self.artifact is None):
            raise ValueError(f"path {self.name!r} must have either a node or an artifact")
        if (self.node is None) != (self.model is None):
            raise ValueError(f"path {self.name!r} must name a model where it names a node, and only there")
        if self.link is None and (self.over_link or self.probe is not None):
            raise ValueError(f"path {self.name!r} must name its link where it has over_link or probe")
        if self.artifact is not None and self.link is not None:
            raise ValueError(f"path {self.name!r} runs in this process and must not name a link")

    @property
    def probe_address(self) -> str | None:
        """Where to measure the link; None where that cannot be asked."""
        return self.probe or (self.node if self.over_link else None)


class Paths(Spec, frozen=True, kw_only=True):
    """Paths to an answer and how to choose among them; what a ``paths.toml`` holds.

    Attributes:
        paths: At least one; one without a link makes sure that there is an answer when links are down.
        policy: ``accurate``: the most accurate path that meets the deadline. ``fast``: the one that answers first.
        deadline_s: How long an answer may take where the request does not say.
        margin_frac: By how much another path must be better before requests take it (see `Chooser`).
        dwell_s: For how long it must have been.
        hedge: Also start the path on the device when the remote one has taken longer than 95 % of its answers did; the
            first answer counts.
        breaker: When a path that fails is left alone.
        probe_s: How often a small message measures a link's round trip; 0: never.
        probe_bytes: Payload of a second one, which measures the rate where nothing has crossed the link meanwhile.
        refresh_s: The latest request is repeated along a path that nothing has taken for this long, its answer
            thrown away, so that a path is known when it is needed; 0: never. (It is also what tries a path whose
            breaker is open, and what measures one that no request has taken yet.)
        outstanding: Requests that may be under way at once.
        input: How items become the request's tensors; None: requests bring tensors by name.
        credentials: Keyring file of how the nodes let this side in (`tierwise.wire.Keyring`); None: as the environment
            says.
    """

    paths: Annotated[tuple[PathSpec, ...], msgspec.Meta(min_length=1)]
    policy: Policy = "accurate"
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_DEADLINE_S)] = 1.0
    margin_frac: Share = 0.15
    dwell_s: NotNegative = 0.5
    hedge: bool = False
    breaker: BreakerSpec = BreakerSpec()
    probe_s: NotNegative = 1.0
    probe_bytes: Annotated[int, msgspec.Meta(ge=0, le=16 << 20)] = 16 << 10
    refresh_s: NotNegative = 10.0
    outstanding: Annotated[int, msgspec.Meta(ge=1)] = 64
    input: InputEncoding | None = None
    credentials: str | None = None

    def credentials_for(self, address: str) -> Credentials | None:
        """What the keyring has for ``address``; None where it has nothing, or there is none.

        Raises:
            SpecError: The keyring cannot be read.
        """
        return None if self.credentials is None else load_keyring(Path(self.credentials)).find(address)

    def __post_init__(self) -> None:
        """Check that names tell the paths apart."""
        names = [path.name for path in self.paths]
        if len(set(names)) != len(names):
            raise ValueError(f"every path must have a name of its own, but got {', '.join(names)}")


def load_paths(file: Path) -> Paths:
    """Read a ``paths.toml``; directories of artifacts and the keyring are relative to it.

    Raises:
        SpecError: It cannot be read, or is not as `Paths` says.
    """
    spec = load_toml(file, Paths)
    paths = tuple(
        path
        if path.artifact is None
        else msgspec.structs.replace(path, artifact=str(file.parent / Path(path.artifact).expanduser()))
        for path in spec.paths
    )
    keyring = None if spec.credentials is None else str(file.parent / Path(spec.credentials).expanduser())
    return msgspec.structs.replace(spec, paths=paths, credentials=keyring)
