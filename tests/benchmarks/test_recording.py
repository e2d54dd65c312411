"""The recording of a terminal: real commands, in an animated picture that ends with their last state."""

import re
from xml.etree import ElementTree

from benchmarks import recording
from benchmarks.film import Film

SVG = "{http://www.w3.org/2000/svg}"
PLAIN = ("default", "default", False)


def drawn(film: Film) -> ElementTree.Element:
    return ElementTree.fromstring(film.svg())


def texts(element: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in element.iter(f"{SVG}text")]


def test_equal_rows_are_defined_once_and_equal_frames_are_one():
    film = Film(20, 2)
    blank = ((" " * 20, *PLAIN),)
    first = (("$ ", "green", "default", True), ("ls" + " " * 16, *PLAIN))
    film.add([first, blank], 1.0)
    film.add([first, blank], 0.5)
    film.add([first, first], 0.5)
    picture = drawn(film)
    assert texts(picture) == ["$", "ls"]
    assert len(list(picture.iter(f"{SVG}use"))) == 3, "blank rows are not drawn"
    assert film.seconds == 2.0
    assert re.findall(r"([\d.]+)%\{", film.svg()) == ["0.000", "75.000"]


def test_a_command_is_typed_and_run_in_a_terminal(tmp_path):
    scenes = [recording.Scene("cldctl --version", 1.0), recording.Scene("cldctl recipes", 1.0)]
    film = recording.record(scenes, tmp_path)
    shown = texts(drawn(film))
    assert {"cldctl", "cldctl recipes"} <= {text[: len("cldctl recipes")] for text in shown}
    assert any("toy_demo" in text for text in shown)
    typing = len("cldctl recipes") * recording.LETTER_S + 2 * recording.FIRST_S
    assert film.seconds < typing + 2 * (1.0 + recording.READ_S) + 1.0
