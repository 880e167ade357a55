"""What a disk that takes nothing is called: what may pass is waited for, anything else is a defect."""

import errno
import os

import pytest

from ebbtide.disk import room_for
from ebbtide.errors import Unavailable


@pytest.mark.parametrize(
    ("number", "says"),
    [
        pytest.param(errno.ENOSPC, "There is no room for the object: the disk is full.", id="full"),
        pytest.param(errno.EDQUOT, "There is no room for the object: the disk is full.", id="quota"),
        pytest.param(errno.EROFS, "no place for the object now: Read-only file system.", id="read-only"),
        pytest.param(errno.EACCES, "no place for the object now: Permission denied.", id="permissions"),
        pytest.param(errno.EMFILE, "no place for the object now: Too many open files.", id="limit"),
        pytest.param(errno.EIO, "no place for the object now: Input/output error.", id="broken"),
    ],
)
def test_what_an_operator_can_put_right_is_unavailable_and_says_what_it_is(number, says):
    with pytest.raises(Unavailable, match=says), room_for("the object"):
        raise OSError(number, os.strerror(number))


def test_anything_else_is_no_matter_of_waiting():
    with pytest.raises(FileExistsError), room_for("the object"):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
