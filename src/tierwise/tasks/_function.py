"""A user's code by its name, ``module:function``."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from tierwise._errors import InputError, SpecError

__all__ = ["call_function"]


def call_function(name: str, folder: str | None, *, where: str) -> tuple[object, ModuleType]:
    """Import a module and call its function without arguments.

    Args:
        name: ``module:function``.
        folder: Searched for the module before what is installed.
        where: Key of the spec, for errors.

    Returns:
        What the function returned, and the module.

    Raises:
        SpecError: Not of that form, the module cannot be imported, or it has no such function.
        InputError: The function raised; the message says what and on which line.
    """
    module_name, _, function_name = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), function_name]):
        raise SpecError("the function must be given as module:function", got=repr(name), where=where)
    module = _import(module_name, folder, where)
    function = getattr(module, function_name, None)
    if not callable(function):
        offered = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise SpecError(
            f"the module {module_name} must have a function {function_name}",
            got=f"only {', '.join(offered)}" if offered else "no function at all",
            where=where,
        )
    try:
        return function(), module
    except Exception as error:
        raise InputError(
            f"{name} must not fail ({type(error).__name__}: {error})",
            where=_line(error, module) or where,
            fix="Correct the function; it is called without arguments",
        ) from error


def _import(name: str, folder: str | None, where: str) -> ModuleType:
    if folder is not None:
        path = str(Path(folder).resolve())
        if not Path(path).is_dir():
            raise SpecError("the folder of the module must exist", got=repr(folder), where=f"{where} (folder)")
        if path not in sys.path:
            sys.path.insert(0, path)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The module itself, or a parent of it, as against one that it imports.
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            fix = "Give its folder as `folder`" if folder is None else f"Put {name.replace('.', '/')}.py into {folder}"
            raise SpecError(
                f"the module {name} must be importable", got="no such module", where=where, fix=fix
            ) from error
        missing = error.name or str(error)
        raise SpecError(
            f"the module {name} must be importable, and it imports {missing}, which is not installed",
            where=where,
            fix=f"Install {missing}",
        ) from error
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise SpecError(
            f"the module {name} must be importable ({type(error).__name__}: {error})",
            where=f"{line.filename}:{line.lineno}",
        ) from error


def _line(error: Exception, module: ModuleType) -> str | None:
    """The last place of a traceback that lies in the user's module."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == module.__file__]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None
