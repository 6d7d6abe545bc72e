"""Random attack problems for property-based tests, and what must hold of every answer."""

import torch
from hypothesis import strategies as st


def within(images, adv, radii, clip):
    """In the budget but for one unit in the last place of image or answer, and in the clip range as its type has it."""
    before, after, radii = images.double(), adv.double(), radii.double()
    low, high = (torch.tensor(bound, dtype=torch.float64).to(adv.dtype).double() for bound in clip)
    assert adv.dtype == images.dtype
    assert adv.isfinite().all()
    assert ((after - before).abs() <= radii + ulp_of(torch.maximum(before.abs(), after.abs()), adv.dtype)).all()
    assert (after >= low).all()
    assert (after <= high).all()


def ulp_of(values, dtype):
    """Distance from each value >= 0 to the next larger number of a type."""
    exponent = torch.frexp(values.clamp(min=torch.finfo(dtype).tiny))[1] - 1
    return torch.finfo(dtype).eps * 2.0 ** exponent.double()


@st.composite
def problems(draw):
    """Random images, radii and clip ranges of any shape, scale and precision."""
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    n, c, h, w = (draw(st.integers(1, most)) for most in (4, 3, 7, 7))
    low = draw(st.sampled_from([0.0, -1.0, -2.5, 0.1]))
    high = low + draw(st.sampled_from([1.0, 2.0, 255.0, 1.3]))
    images = (low + (high - low) * torch.rand(n, c, h, w, generator=generator, dtype=torch.float64)).to(dtype)
    eps = draw(st.floats(0, 0.5)) * (high - low)
    shape = draw(st.sampled_from([(n, 1, h, w), (n, c, h, w), (1, 1, 1, 1)]))
    kind = draw(st.sampled_from(["two values", "any", "zeros and eps", "equal"]))
    fraction = torch.rand(shape, generator=generator, dtype=torch.float64)
    eps_low = draw(st.floats(0, 1))
    fraction = {
        "two values": torch.where(fraction > 0.7, 1.0, eps_low),
        "any": fraction,
        "zeros and eps": (fraction > 0.5).double(),
        "equal": torch.ones_like(fraction),
    }[kind]
    radii = (eps * fraction).to(dtype)
    low_there, high_there = (torch.tensor(bound).to(dtype) for bound in (low, high))
    return images.clamp(low_there, high_there), radii, float(radii.max()), (low, high), generator
