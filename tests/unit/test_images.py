"""The list of images, and what is known of those that were built."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from actors.backends.images import builder, catalogue, store
from actors.config import ImageSettings
from actors.errors import ConfigurationError


def written(directory: Path, text: str) -> Path:
    path = directory / "images.toml"
    path.write_text(text)
    return path


def test_the_list_that_comes_along_holds_the_science_stack() -> None:
    images = catalogue.read()
    names = "numpy<2 numpy-financial scipy sympy mpmath pandas matplotlib seaborn scikit-learn pillow networkx plotly "
    names += "statsmodels yfinance biopython beautifulsoup4 requests openpyxl xlrd python-dateutil"
    assert set(names.split()) == set(images["science"].packages)
    assert set(images["genomics"].packages) - set(images["science"].packages) == {"splicekit", "deeptools"}
    assert all(image.description for image in images.values())


def test_an_image_takes_in_another_s_packages_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '[a]\npackages=["x", "y"]\n[b]\nextends="a"\npackages=["y", "z"]\ntag="v1"\n[c]\nextends="b"\npackages=[]',
    )
    images = catalogue.read(path)
    assert images["b"].packages == ("x", "y", "z")
    assert (images["b"].tag, images["c"].tag, images["c"].packages) == ("v1", None, ("x", "y", "z"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a", "not TOML"),
        ('[a]\npackages="x"', r"a\.packages"),
        ('[a]\npackages=["x"]\nextend="b"', r"a\.extend"),
        ('[a]\npackages=["--index-url=http://evil"]', r"a\.packages\.0"),
        ('[a]\npackages=["x"]\nextends="b"', "a extends 'b', which is not there"),
        ('[a]\npackages=[]\nextends="b"\n[b]\npackages=[]\nextends="a"', "a extends b extends a, which never ends"),
        ('["../a"]\npackages=[]', r"\.\./a"),
        ('[a]\npackages=[]\ntag="a b"', r"a\.tag"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        catalogue.read(written(tmp_path, text))
    assert str(tmp_path) in str(refused.value)


def test_an_image_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="genomics, javascript, science"):
        catalogue.find("sciense")
    with pytest.raises(ConfigurationError, match="No such file"):
        catalogue.read(tmp_path / "missing.toml")


def test_one_that_was_not_built_or_is_gone_says_how_to_build_it(tmp_path: Path) -> None:
    settings = ImageSettings(directory=tmp_path)
    assert store.built(settings, "science") is None
    with pytest.raises(ConfigurationError, match="image build science"):
        store.required(settings, "science")
    store.manifest_path(settings, "science").write_text('{"of": "another form"}')
    assert store.built(settings, "science") is None


def test_an_image_is_built_by_one_at_a_time(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / "science.lock"),
        pytest.raises(builder.BuildFailed, match="another build of it is under way"),
    ):
        builder.build(catalogue.find("science"), ImageSettings(directory=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["science.lock"]


def test_images_lie_below_the_users_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert store.directory(ImageSettings()) == tmp_path / "e2b-orchestrator" / "images"
