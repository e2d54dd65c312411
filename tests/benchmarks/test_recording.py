"""The recording of a terminal: real commands, in an animated picture that ends with their last state."""

from xml.etree import ElementTree

from benchmarks import recording
from benchmarks.film import Film

SVG = "{http://www.w3.org/2000/svg}"
PLAIN = ("default", "default", False)


def drawn(film: Film) -> ElementTree.Element:
    return ElementTree.fromstring(film.svg())


def texts(element: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in element.iter(f"{SVG}text")]


def test_a_command_is_typed_and_run_in_a_terminal(tmp_path):
    scenes = [recording.Scene("cldctl --version", 1.0), recording.Scene("cldctl recipes", 1.0)]
    film = recording.record(scenes, tmp_path)
    shown = texts(drawn(film))
    assert {"cldctl", "cldctl recipes"} <= {text[: len("cldctl recipes")] for text in shown}
    assert any("toy_demo" in text for text in shown)
    typing = len("cldctl recipes") * recording.LETTER_S + 2 * recording.FIRST_S
    assert film.seconds < typing + 2 * (1.0 + recording.READ_S) + 1.0
