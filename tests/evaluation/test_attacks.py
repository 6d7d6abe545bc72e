"""Names and instances become entries, each kind once."""

import re

import pytest
import torchattacks
from evaluation.conftest import EPS

from part_plugin import FixedBudget, PixelBudget, PixelPGD, evaluate
from part_plugin.evaluation.attacks import KNOWN, check_evidence, parse
from part_plugin.evaluation.autoattack import AutoAttack
from part_plugin.evaluation.entries import Natural

ADAPTIVE = PixelBudget(0.15, 0.1)


def rows(*attacks):
    return parse(attacks, EPS, ADAPTIVE, 5)


def test_names():
    names = ["pgd40", "natural", "adaptive_mma", "mma", "pgd20", "autoattack", "mma100", "adaptive_pgd7"]
    entries = rows(*names)
    assert list(entries) == names
    assert isinstance(entries["natural"], Natural)
    assert isinstance(entries["autoattack"], AutoAttack)
    assert (entries["autoattack"].eps, entries["autoattack"].eps_low, entries["autoattack"].seed) == (EPS, EPS, 5)
    pgd, mma = entries["pgd20"], entries["mma"]
    assert entries["pgd40"] is pgd
    assert entries["mma100"] is mma
    assert len({id(entry) for entry in entries.values()}) == 6
    assert (pgd.steps, mma.steps) == ({"pgd40": 40, "pgd20": 20}, {"mma": 20, "mma100": 100})
    assert pgd.names == ("pgd20", "pgd40")
    assert (entries["adaptive_mma"].steps, entries["adaptive_pgd7"].steps) == (
        {"adaptive_mma": 20},
        {"adaptive_pgd7": 7},
    )
    for name, margin, adaptive in (
        ("pgd20", False, False),
        ("mma", True, False),
        ("adaptive_pgd7", False, True),
        ("adaptive_mma", True, True),
    ):
        entry = entries[name]
        assert (entry.margin, entry.alpha, entry.seed) == (margin, EPS / 4, 5)
        assert (entry.budget is ADAPTIVE) == adaptive
        assert (entry.eps, entry.eps_low) == ((0.15, 0.1) if adaptive else (EPS, EPS))


def test_instances(narrow_net):
    attacks = [torchattacks.PGD(narrow_net) for _ in range(3)]
    entries = rows(attacks[0], "pgd20", *attacks[1:])
    assert list(entries) == ["PGD", "pgd20", "PGD 2", "PGD 3"]
    assert [entries[name].attack for name in ("PGD", "PGD 2", "PGD 3")] == attacks
    assert entries["PGD 3"].names == ("PGD 3",)
    assert entries["PGD"].seed == 5
    with pytest.raises(ValueError, match="^attacks holds the same PGD twice$"):
        rows(attacks[0], "pgd20", attacks[0])


@pytest.mark.parametrize(
    "name", ["pgd", "pgd0", "pgd05", "pgd-1", "mma0", "adaptive_natural", "adaptive_", "xpgd20", "pgd20x", "PGD20", ""]
)
def test_unknown_names(name):
    with pytest.raises(ValueError, match=f"^{re.escape(f'attacks holds {name!r}; choose from {KNOWN}')}$"):
        rows(name)


@pytest.mark.parametrize("name", ["natural", "autoattack", "pgd5", "mma", "adaptive_mma7"])
def test_names_that_are_there_twice(name):
    with pytest.raises(ValueError, match=f"^attacks holds '{name}' twice$"):
        rows(name, "pgd20", name)


def test_what_is_no_attack():
    with pytest.raises(TypeError, match=f"^{re.escape(f'attacks holds a int; choose from {KNOWN}')}$"):
        rows(3)
    assert KNOWN == (
        "'natural', 'pgd20', 'mma', 'adaptive_pgd20', 'adaptive_mma20' (any number of steps), 'autoattack', "
        "'gradients', 'corruptions', or an attack of torchattacks or ART"
    )


def test_pixel_ag_is_never_the_only_evidence(narrow_net, held_out):
    weak, weaker = PixelPGD(narrow_net, eps=EPS, eps_low=EPS / 2), PixelPGD(narrow_net, eps=EPS, eps_low=0.0)
    for attacks in ([weak], ["natural", weak], [weaker], [weak, weaker]):
        name = "PixelPGD"
        message = (
            f"attacks holds {name} with eps_low < eps=0.1 as the only evidence; add an attack that lets every pixel "
            "move by eps, such as 'pgd20' or 'autoattack'"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            evaluate(narrow_net, *held_out, EPS, attacks, verbose=False)
    result = evaluate(narrow_net, *held_out, EPS, ["pgd10", weak], verbose=False)
    assert result["worst case"].accuracy == pytest.approx((result["pgd10"].correct & True).mean())
    assert (result["worst case"].correct == (result["pgd10"].correct & True)).all()


def test_an_adaptive_budget_below_eps_is_no_evidence_either():
    small = PixelBudget(0.15, 0.05)
    with pytest.raises(ValueError, match=r"^attacks holds adaptive_pgd5 with eps_low < eps=0\.1 as the only evidence"):
        check_evidence(list(parse(["adaptive_pgd20", "adaptive_pgd5"], EPS, small, 0).values()), EPS)
    for attacks, budget in (
        (["adaptive_pgd20"], ADAPTIVE),
        (["adaptive_pgd20", "pgd1"], small),
        (["adaptive_pgd20"], FixedBudget(0.05)),
        (["natural"], small),
    ):
        check_evidence(list(parse(attacks, EPS, budget, 0).values()), EPS)


def test_an_attack_in_another_norm_may_stand_alone(narrow_net):
    check_evidence(list(rows(torchattacks.PGDL2(narrow_net)).values()), EPS)
