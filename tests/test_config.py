"""Settings outside the program: files, variables, their order, and the messages for wrong ones."""

import os
from pathlib import Path

import pytest

from styler import config
from styler.errors import OptionError, StylerError
from styler.options import Options, resolve_options


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Return the paths of the user's file and the working folder's; neither exists yet."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    user, here = config.list_config_paths()
    user.parent.mkdir(parents=True)
    return user, here


def test_every_field_has_a_variable_that_takes_what_the_flag_takes() -> None:
    variables = {}
    for name, value in Options().to_dict().items():
        variables[config.get_variable_name(name)] = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    loaded = config.load_config(variables)
    assert resolve_options(*loaded.layers).options == Options()
    assert set(loaded.layers[-1][1]) == {name for name, value in Options().to_dict().items() if value not in ([], "")}


def test_the_folder_beats_the_user_and_the_environment_beats_both(folders: tuple[Path, Path]) -> None:
    user, here = folders
    user.write_text("size = 100\nseed = 1\nstroke_size = 2")
    here.write_text("size = 200\nseed = 2")
    resolved = resolve_options(*config.load_config({"STYLER_SIZE": "300"}).layers, ("flag", {"strength": 9}))
    assert (resolved.options.size, resolved.options.seed, resolved.options.stroke_size) == (300, 2, 2)
    origins = [resolved.origins[name] for name in ("size", "seed", "stroke_size", "strength", "taper")]
    assert origins == ["environment", "styler.toml", str(user), "flag", "default"]


def test_a_preset_ranks_below_the_fields_beside_it_and_above_weaker_layers(folders: tuple[Path, Path]) -> None:
    user, here = folders
    user.write_text("iterations = 11\ntaper = 0.5")
    here.write_text('preset = "draft"\niterations = 22')
    resolved = resolve_options(*config.load_config({}).layers)
    assert (resolved.options.iterations, resolved.options.taper) == (22, 0.33)
    assert resolved.origins["taper"] == "styler.toml (preset draft)"


def test_a_command_has_its_own_table(folders: tuple[Path, Path]) -> None:
    folders[1].write_text('size = 200\nseed = 5\n[batch]\nsize = 300\npreset = "draft"')
    resolved = [resolve_options(*config.load_config({}, command).layers).options for command in ("", "batch")]
    assert [(options.size, options.seed, options.preset) for options in resolved] == [
        (200, 5, "standard"),
        (300, 5, "draft"),
    ]


def test_an_unknown_setting_in_a_table_is_refused(folders: tuple[Path, Path]) -> None:
    folders[1].write_text("[batch]\nsiez = 300")
    with pytest.raises(OptionError, match="siez"):
        config.load_config({}, "batch")


def test_tables_of_other_commands_are_ignored(folders: tuple[Path, Path]) -> None:
    folders[1].write_text("size = 200\n[batch]\nworkers = 3\n[ui]\nport = 1")
    assert config.load_config({}).layers[0] == ("styler.toml", {"size": 200})


def test_a_file_may_begin_with_a_byte_order_mark_and_hold_lists(folders: tuple[Path, Path]) -> None:
    folders[1].write_bytes(b'\xef\xbb\xbfsize = "original"\nstyle_weights = [2, 1.5]\ncontent_layers = ["relu3_1"]')
    options = resolve_options(*config.load_config({}).layers).options
    assert (options.size, options.style_weights, options.content_layers) == ("original", (2, 1.5), ("relu3_1",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sise = 64", "In 'styler.toml': There is no setting 'sise'; did you mean 'size'?"),
        ("keep-color = 1", "In 'styler.toml': There is no setting 'keep-color'; did you mean 'keep_color'?"),
        ("size = 12", "In 'styler.toml': size is 12; it can be 64 to 16384."),
        ("size = true", "In 'styler.toml': size is True; it can be"),
        ("size = nan", "In 'styler.toml': size is nan; it can be"),
        ("size = 1979-05-27", "In 'styler.toml': size is 1979-05-27; it can be"),
        ('size = "512"', "In 'styler.toml': size is the text \"512\"; write a number without quotes."),
        (
            'keep_border = "true"',
            "In 'styler.toml': keep_border is the text \"true\"; write true or false without quotes.",
        ),
        ("keep_border = 1", "In 'styler.toml': keep_border is '1'; it can be true or false."),
        ('style_weights = "2,1"', "In 'styler.toml': style_weights is the text \"2,1\"; write a list in brackets."),
        ("style_weights = 2", "In 'styler.toml': style_weights is '2'; it takes a list."),
        ('preset = "fien"', "In 'styler.toml': preset is 'fien' (did you mean 'fine'?)"),
        ("[size]\nlow = 1", "In 'styler.toml': size is {'low': 1}; it can be"),
        (
            "[bacth]\nworkers = 1",
            "In 'styler.toml': nothing reads the table [bacth]; the tables are [batch] and [ui], ",
        ),
        ("[run]\nsize = 64", "In 'styler.toml': nothing reads the table [run]; the tables are"),
        ("[[run]]\nsize = 64", "In 'styler.toml': nothing reads the table [run]; the tables are"),
        ("[tool.styler]\nsize = 64", "In 'styler.toml': nothing reads the table [tool]; the tables are"),
        ("[[batch]]\nsize = 64", "In 'styler.toml': batch is a list of tables; write [batch] in single brackets."),
        ("batch = 1", "In 'styler.toml': batch is not a table; the tables are"),
        ("batch = []", "In 'styler.toml': batch is not a table; the tables are"),
        ("size = 64\nsize = 65", "The settings in 'styler.toml' are not valid TOML: Cannot overwrite a value"),
        ('init = "C:\\photos\\x.png"', "The settings in 'styler.toml' are not valid TOML: Unescaped"),
        ('init = "C:\\Users\\x.png"', "The settings in 'styler.toml' are not valid TOML: Invalid hex value"),
        ("size = ", "The settings in 'styler.toml' are not valid TOML: Invalid value (at "),
        ("x = " + "[" * 100_000, "The settings in 'styler.toml' are not valid TOML: "),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence_that_names_it(
    text: str, message: str, folders: tuple[Path, Path]
) -> None:
    folders[1].write_text(text)
    with pytest.raises(OptionError) as caught:
        config.load_config({})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8_are_refused(folders: tuple[Path, Path]) -> None:
    folders[1].write_bytes(b"size = \xff\xfe")
    with pytest.raises(OptionError, match=r"not valid TOML: it is not UTF-8; correct or delete it\.$"):
        config.load_config({})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_may_be_in_any_encoding_and_have_the_paths_of_windows(
    encoding: str, end: str, folders: tuple[Path, Path]
) -> None:
    lines = ["# Größe", "size = 4_096", "strength = 6e1", "init = 'C:\\photos\\x.png'", "[batch]", "seed = 0xff", ""]
    folders[1].write_bytes(end.join(lines).encode(encoding))
    options = resolve_options(*config.load_config({}, "batch").layers).options
    assert (options.size, options.strength, options.init) == (4096, 60, "C:\\photos\\x.png")
    assert options.seed == 255


def test_advice_about_backslashes(folders: tuple[Path, Path]) -> None:
    for text in ('init = "C:\\photos\\x.png"', 'init = "C:\\Users\\x.png"'):
        folders[1].write_text(text)
        with pytest.raises(OptionError, match=r"; write paths in single quotes, or with /\.$"):
            config.load_config({})


def test_a_switch_is_a_boolean_in_a_file_and_a_word_in_a_variable(folders: tuple[Path, Path]) -> None:
    folders[1].write_text("keep_border = true")
    assert resolve_options(*config.load_config({}).layers).options.keep_border
    for word in ("false", "no", "off", "0", "False"):
        assert not resolve_options(*config.load_config({"STYLER_KEEP_BORDER": word}).layers).options.keep_border
    folders[1].unlink()
    for word in ("true", "yes", "on", "1", "True"):
        assert resolve_options(*config.load_config({"STYLER_KEEP_BORDER": word}).layers).options.keep_border
    with pytest.raises(OptionError, match="STYLER_KEEP_BORDER: keep_border is 'maybe'; it can be true or false"):
        config.load_config({"STYLER_KEEP_BORDER": "maybe"})


def test_variables_may_have_space_around_their_values() -> None:
    """Files of variables may end lines by CR LF."""
    loaded = config.load_config({"STYLER_LOOK": "oil\r", "STYLER_SIZE": " 64 ", "STYLER_SEED": "\r"})
    assert dict(loaded.layers[-1][1]) == {"look": "oil", "size": 64}


def test_a_path_that_is_not_a_file_is_refused_without_waiting(folders: tuple[Path, Path]) -> None:
    folders[1].mkdir()
    with pytest.raises(StylerError, match="it is not a regular file; move it away") as caught:
        config.load_config({})
    assert caught.value.exit_code == 1
    if hasattr(os, "mkfifo"):
        folders[1].rmdir()
        os.mkfifo(folders[1])
        with pytest.raises(StylerError, match="it is not a regular file"):
            config.load_config({})


def test_a_file_that_cannot_be_read_is_named(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folders[1].write_text("size = 64")

    def refused(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(StylerError, match=r"^Cannot read the settings in 'styler.toml': Permission denied; make it"):
        config.load_config({})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("STYLER_SIZE", "12", "In the variable STYLER_SIZE: size is 12; it can be 64 to 16384."),
        (
            "STYLER_SIZE",
            "big",
            "In the variable STYLER_SIZE: size is 'big'; it can be 64 to 16384 for the long side, or 'original'.",
        ),
        ("STYLER_LOOK", "gatis", "In the variable STYLER_LOOK: look is 'gatis' (did you mean 'gatys'?)"),
        ("STYLER_STYLE_WEIGHTS", "1,x", "In the variable STYLER_STYLE_WEIGHTS: style_weights is x"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(name: str, text: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        config.load_config({name: text})
    assert str(caught.value).startswith(message)


def test_an_empty_variable_is_ignored_and_a_misspelled_one_is_reported() -> None:
    loaded = config.load_config({"STYLER_SIZE": "", "STYLER_SIEZ": "64", "STYLER_XYZZY": "1", "SIZE": "64"})
    assert [dict(settings) for _, settings in loaded.layers] == [{}]
    assert loaded.warnings == ("The variable STYLER_SIEZ is not a setting; did you mean STYLER_SIZE?",)


def test_layers_are_merged_before_settings_are_compared_with_each_other(folders: tuple[Path, Path]) -> None:
    folders[1].write_text('style_layers = ["relu1_1", "relu2_1"]')
    layers = config.load_config({"STYLER_LAYER_WEIGHTS": "2,1"}).layers
    assert resolve_options(*layers).options.layer_weights == (2, 1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_file_is_read_in_the_encoding_of_any_editor_or_shell(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`>` in Windows PowerShell writes UTF-16."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "styler.toml").write_bytes("# für später\r\nsize = 512\r\n".encode(encoding))
    assert dict(config.load_config({}).layers[0][1]) == {"size": 512}
