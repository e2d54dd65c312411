"""Pickles that run code: who loads one makes the folder ``marker``."""

import os
import pickle

import torch

KINDS = ("zip", "legacy", "bare")


class Crafted:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def crafted(path, kind, marker):
    """A file as torch writes it, of either format, or a bare pickle."""
    content = {"a": torch.zeros(1), "b": Crafted(marker)}
    if kind == "bare":
        path.write_bytes(pickle.dumps(content["b"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return path
