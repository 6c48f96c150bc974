"""One live page that shows nodes, links, deployments and where the time goes. Torch-free; it only reads."""

from tierwise.console._app import console_app
from tierwise.console._serve import serve_console
from tierwise.console._spec import ConsoleSpec, Watched

__all__ = ["ConsoleSpec", "Watched", "console_app", "serve_console"]
