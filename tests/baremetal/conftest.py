"""One lab and one guest for all checks of a run. (A fixture that two modules import is made once for each of them.)"""

from tests.lab.fixtures import guest_image, lab

__all__ = ["guest_image", "lab"]
