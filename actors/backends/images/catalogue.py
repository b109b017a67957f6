"""The list of images, as ``images.toml`` holds it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from actors.errors import ConfigurationError, faults

OWN = Path(__file__).with_name("images.toml")
"""The list that comes with this package."""
ImageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class Listed(BaseModel):
    """One image as it is written down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packages: tuple[Annotated[str, StringConstraints(min_length=1, pattern=r"^[^-\n][^\n]*$")], ...]
    description: str = ""
    extends: ImageName | None = None
    tag: Tag | None = None


class Image(BaseModel):
    """One image with all that it takes in."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    packages: tuple[str, ...]
    tag: str | None
    """The BUILD_TAG; None derives it from the content."""


_FILE: TypeAdapter[dict[ImageName, Listed]] = TypeAdapter(dict[ImageName, Listed])


def read(path: Path | None = None) -> dict[str, Image]:
    """Return the images of a list by name; None is the list that comes with this package.

    Raises:
        ConfigurationError: it cannot be read, or something in it is wrong; says what.
    """
    path = path or OWN
    try:
        listed = _FILE.validate_python(tomllib.loads(path.read_text()))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not TOML ({error})") from None
    except ValidationError as error:
        place, rule = faults(error)[0]
        raise ConfigurationError(f"{path}: {'.'.join(place)}: {rule}") from None
    return {name: _resolved(name, listed, path) for name in listed}


def find(name: str, path: Path | None = None) -> Image:
    """Return one image of a list.

    Raises:
        ConfigurationError: it is not in it; as ``read``.
    """
    images = read(path)
    if name not in images:
        raise ConfigurationError(f"there is no image {name!r} in {path or OWN}; there are {', '.join(sorted(images))}")
    return images[name]


def _resolved(name: str, listed: dict[str, Listed], path: Path) -> Image:
    packages: list[str] = []
    seen: list[str] = []
    at: str | None = name
    while at is not None:
        if at in seen:
            raise ConfigurationError(f"{path}: {' extends '.join([*seen, at])}, which never ends")
        if at not in listed:
            raise ConfigurationError(f"{path}: {seen[-1]} extends {at!r}, which is not there")
        seen.append(at)
        packages = [*listed[at].packages, *packages]
        at = listed[at].extends
    own = listed[name]
    return Image(name=name, description=own.description, packages=tuple(dict.fromkeys(packages)), tag=own.tag)
