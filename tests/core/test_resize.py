"""Resizing against PyTorch's own interpolation and against the formula of slerp, one pair of vectors at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from t2v_core.errors import T2VError
from t2v_core.resize import IMAGE_METHODS, METHODS, resize


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic"])
@pytest.mark.parametrize("size", [(9, 20), (3, 4), (6, 10)])
def test_four_methods_are_pytorchs(method, size):
    x = noise(3, 4, 6, 10)
    assert torch.equal(resize(x, *size, method), F.interpolate(x, size, mode=method))


def test_each_frame_by_itself():
    x = noise(4, 4, 5, 6)
    for method in METHODS:
        whole = resize(x, 8, 9, method)
        for frame in range(4):
            assert torch.equal(resize(x[frame : frame + 1], 8, 9, method)[0], whole[frame])


def at_angle(degrees: float, length: float) -> list[float]:
    return [length * math.cos(math.radians(degrees)), length * math.sin(math.radians(degrees))]


def test_bislerp_turns_by_the_angle_and_grows_by_the_length():
    """Two places, of two channels, to four: half-pixel centres lie a quarter and three quarters of the way."""
    x = torch.tensor([at_angle(10, 1.0), at_angle(100, 3.0)]).T[None, :, None, :]
    expected = torch.tensor([at_angle(10, 1.0), at_angle(32.5, 1.5), at_angle(77.5, 2.5), at_angle(100, 3.0)]).T
    torch.testing.assert_close(resize(x, 1, 4, "bislerp")[0, :, 0], expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(resize(x.mT, 4, 1, "bislerp")[0, :, :, 0], expected, atol=1e-6, rtol=1e-5)


def slerp(a: torch.Tensor, b: torch.Tensor, share: float) -> torch.Tensor:
    """Shoemake 1985, of unit vectors, and the lengths linearly; in double precision."""
    lengths, angle = (a.norm(), b.norm()), torch.acos((a / a.norm()) @ (b / b.norm()))
    turned = torch.sin((1 - share) * angle) * a / a.norm() + torch.sin(share * angle) * b / b.norm()
    return turned / torch.sin(angle) * (lengths[0] * (1 - share) + lengths[1] * share)


@pytest.mark.parametrize("length", [5, 9, 13])
def test_bislerp_along_the_width_is_slerp_of_neighbours(length):
    x = noise(1, 4, 1, 7).double()
    resized = resize(x, 1, length, "bislerp")[0, :, 0]
    for place in range(length):
        centre = min(max((place + 0.5) * 7 / length - 0.5, 0.0), 6.0)
        left = min(int(centre), 5)
        expected = slerp(x[0, :, 0, left], x[0, :, 0, left + 1], centre - left)
        torch.testing.assert_close(resized[:, place], expected, atol=1e-5, rtol=1e-5)


def test_bislerp_goes_along_the_width_first():
    x = noise(2, 4, 5, 6)
    both = resize(x, 8, 9, "bislerp")
    torch.testing.assert_close(both, resize(resize(x, 5, 9, "bislerp"), 8, 9, "bislerp"), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(both, resize(resize(x, 8, 6, "bislerp"), 8, 9, "bislerp"), atol=1e-3)


def test_bislerp_where_there_is_no_circle():
    """Nothing, one direction, and opposite ones, where it is linear."""
    assert not resize(torch.zeros(1, 4, 2, 2), 4, 4, "bislerp").any()
    one = torch.ones(1, 4, 1, 1) * torch.tensor([1.0, 3.0])
    torch.testing.assert_close(resize(one, 1, 4, "bislerp")[0, 0, 0], torch.tensor([1.0, 1.0, 1.0, 3.0]))
    opposite = torch.ones(1, 4, 1, 1) * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(resize(opposite, 1, 4, "bislerp")[0, 0, 0], torch.tensor([1.0, 0.5, -0.5, -1.0]))
    half_empty = torch.cat([torch.zeros(1, 4, 1, 1), torch.ones(1, 4, 1, 1)], dim=3)
    assert resize(half_empty, 3, 5, "bislerp").isfinite().all()


def test_the_type_of_numbers_stays():
    for method in METHODS:
        assert resize(noise(1, 4, 2, 2).half(), 4, 4, method).dtype == torch.float16


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((torch.zeros(1, 4, 2, 2), 4, 4, "lanczos"), "method is 'lanczos', not one of nearest-exact, bilinear, area"),
        ((torch.zeros(1, 4, 3, 2, 2), 4, 4, "area"), r"\[1, 4, 3, 2, 2\] to 4 x 4: frames are \[f, c, h, w\]"),
        ((torch.zeros(1, 4, 0, 2), 4, 4, "area"), "no side is 0"),
        ((torch.zeros(1, 4, 2, 2), 0, 4, "bislerp"), "no side is 0"),
    ],
)
def test_bad_input(arguments, says):
    with pytest.raises(T2VError, match=says):
        resize(*arguments)


def test_colours_are_not_turned():
    assert set(METHODS) - set(IMAGE_METHODS) == {"bislerp"}
