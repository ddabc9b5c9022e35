"""Errors in YAML files of options, in one line with the file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import KeyValidationError, OmegaConfBaseException

from attention_lab.config.compose import WrongCommand
from attention_lab.config.flatten import walk
from attention_lab.data.files.paths import shown

_NOT_TEXT = "a key is not text; put it in quotes"


@contextmanager
def file_errors(file: Path) -> Iterator[None]:
    """In this context, an error of reading a YAML file becomes a WrongCommand that names it."""
    try:
        yield
    except yaml.YAMLError as error:
        problem = _yaml_problem(error)
    except UnicodeDecodeError as error:
        problem = f": byte {error.start + 1} is not UTF-8"
    except RecursionError:
        problem = ": is nested too deeply, or contains itself"
    except KeyValidationError:
        problem = f": {_NOT_TEXT}"
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        problem = f": {_without_types(str(error).partition(chr(10))[0])}"
    except OSError as error:  # OmegaConf's, without a number, if the file holds a plain value
        reason = (error.strerror or "must hold keys and values, not one value").lower()
        problem = f": {reason}"
    else:
        return
    raise WrongCommand(f"{shown(file)}{problem}") from None


def _without_types(problem: str) -> str:
    """A message of Hydra or Python, without the name of a type or function of Python."""
    if problem.startswith("Unsupported type in defaults"):
        return "an entry of its defaults list must be NAME or GROUP: NAME"
    if problem.startswith("Exceeds the limit"):
        return "a number has more than 4300 digits"
    return problem


def check_content(content: Any) -> None:
    """Raise ValueError unless a file of an option holds a mapping whose keys are text."""
    if not OmegaConf.is_dict(content):
        raise ValueError("must hold keys and values, not a list")
    for path, value in walk(OmegaConf.to_container(content)):
        for key in value if isinstance(value, Mapping) else ():
            if not isinstance(key, str):
                place = f" in {path}" if path else ""
                raise ValueError(f"the key {key!r}{place} is not text; put it in quotes")


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Describe the error in a YAML file, as the part of a message after the file's name."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        problem = _NOT_TEXT if error.problem == "found unhashable key" else error.problem
        return f", line {error.problem_mark.line + 1}: {problem or error.context}"
    if isinstance(error, yaml.reader.ReaderError):
        code = error.character if isinstance(error.character, int) else ord(error.character)
        return f": YAML forbids its character {error.position + 1}, U+{code:04X}"
    return f": {error}"
