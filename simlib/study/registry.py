"""All claims, in the order of the thread."""

from __future__ import annotations

from . import detection, experiments
from .claims import Claim

PETER, DANIEL = "Peter Xu", "Daniel Berrangé"

CLAIMS = {
    c.name: c
    for c in (
        Claim("P1", PETER, "one extra phase of handshake before anything else", experiments.one_phase),
        Claim("P2", PETER, "the destination gets everything from the source", experiments.nothing_set_there),
        Claim("P3", PETER, "the source need not care about the destination's version", experiments.no_version_string),
        Claim("P4", PETER, "it can always fail with a solid error at the source", experiments.fails_with_a_reason),
        Claim("P4b", PETER, "a mismatch fails very early, by a dump of the devices", experiments.early_checks),
        Claim("P5-growth", PETER, "the handshake itself can change", experiments.handshake_grows),
        Claim("P5-strong", PETER, "it works with QEMUs from before it, without being told", detection.detects_itself),
        Claim("P6", PETER, "a newer source skips what the destination lacks", experiments.newer_source_skips),
        Claim(
            "P7", PETER, "a newer destination understands an older source", experiments.newer_destination_understands
        ),
        Claim(
            "P8",
            PETER,
            "channels have names, and their order of arrival does not matter",
            experiments.channels_are_named,
        ),
        Claim(
            "D1", DANIEL, "a guest that is saved to a file has no destination to ask", detection.no_destination_to_ask
        ),
        Claim("D2", DANIEL, "it can't be detected reliably without timeouts", detection.needs_a_timeout),
        Claim("D3", DANIEL, "the manager says v2, so nobody need detect", detection.told_by_the_manager),
        Claim("D4", DANIEL, "after the handshake, order is ensured", experiments.order_alone),
    )
}
