"""Python and Pillow as the guide's samples knew them, so that these run unchanged: `python3 as_then.py SCRIPT ARGUMENT...`"""

import runpy
import sys
import types
from pathlib import Path

from PIL import ImageDraw


def what(file, h=None):
    head = bytes(h or Path(file).read_bytes())[:8]
    return "jpeg" if head.startswith(b"\xff\xd8") else "png" if head == b"\x89PNG\r\n\x1a\n" else None


def textsize(self, text, font=None):
    left, top, right, bottom = self.textbbox((0, 0), text, font)
    return right, bottom


# Gone from Python 3.13, and warned of before.
sys.modules["imghdr"] = types.ModuleType("imghdr")
sys.modules["imghdr"].what = what
# Gone from Pillow 10.
ImageDraw.ImageDraw.textsize = textsize

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    # As Python does for a script: what lies beside it can be imported.
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
