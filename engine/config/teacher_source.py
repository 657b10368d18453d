"""Where the weights of a teacher come from, as `backbone.teacher` and `backbone.also_teachers` say it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.config.schema import Backbone
from engine.errors import UserError


@dataclass(frozen=True)
class TeacherSource:
    """The source of one teacher.

    kind: "file"; "torchvision", for published weights; or "none", for a teacher from the cache or trained
    here. path: of the file, as given but for ``~``. weights: the set of weights in the file, "" if none is
    named. tag: the name of published weights.
    """

    kind: Literal["file", "torchvision", "none"]
    path: Path = Path()
    weights: str = ""
    tag: str = ""

    @classmethod
    def parse(cls, text: str | None) -> TeacherSource:
        """Parse a path, ``PATH#WEIGHTS``, ``torchvision:TAG``, or None.

        A path that is a file is taken as it is, with any ``#`` in it.
        """
        if text is None:
            return cls("none")
        if text.startswith("torchvision:"):
            return cls("torchvision", tag=text.removeprefix("torchvision:"))
        text = os.path.expanduser(text)
        path, mark, weights = text.rpartition("#")
        if not mark or os.path.isfile(text):
            return cls("file", Path(text))
        return cls("file", Path(path), weights)

    def absolute(self) -> str | None:
        """Return the text of this source, with an absolute path."""
        if self.kind == "file":
            return str(self.path.absolute()) + (f"#{self.weights}" if self.weights else "")
        return f"torchvision:{self.tag}" if self.kind == "torchvision" else None

    def require_file(self) -> None:
        """Raise UserError("teacher") if this is a path, but not of a file."""
        if self.kind == "file" and not os.path.isfile(self.path):
            exists = "is a folder" if os.path.isdir(self.path) else "is not a file"
            problem = exists if os.path.exists(self.path) else "does not exist"
            raise UserError(
                "teacher",
                f"teacher '{self.path}' {problem}",
                "give a checkpoint file or torchvision:WEIGHTS, or omit the teacher to squeeze one",
            )


def require_teacher_files(backbone: Backbone) -> None:
    """Raise UserError("teacher") if a teacher is configured as a path that is not of a file."""
    for text in (backbone.teacher, *backbone.also_teachers):
        TeacherSource.parse(text).require_file()
