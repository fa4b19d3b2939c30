"""The closed forms hold in the simulated world within four standard errors, and the intervals hold what they say."""

from __future__ import annotations

import math
import random
import statistics as plain
from collections.abc import Callable
from typing import Any

import pytest

from simlib.case.files import find
from simlib.case.scenario import Scenario
from simlib.world.clock import Clock
from simlib.world.net import SYN_ACK_GAP_S, SYN_GAPS_S, Net, Path
from simlib.world.run import arrange
from simlib.world.world import World

oracle = pytest.importorskip("simlib.study.statistics")
BASE = find("detect_new_and_new").vary(guest__ram_mib=1.0)
FEW = 400
SIGMAS = 4.0


def decide(scenario: Scenario, protocol: str, seed: int, path: Callable[[World], None] = lambda _: None) -> Any:
    """What the real source takes the other side for, and after how many seconds; the world stops there."""
    world = World(scenario, protocol, "7.2", "naive", seed)
    arrange(world)
    path(world)
    feed, opened_s, decided = world.source.feed, [0.0], world.env.event()

    def watched(input: Any, *more: Any) -> None:
        if type(input).__name__ == "Opened":
            opened_s[0] = world.env.now
        feed(input, *more)
        if world.source.endpoint.mode and not decided.triggered:
            decided.succeed(world.env.now)

    world.source.feed = watched  # type: ignore[method-assign]
    world.management.begin()
    at_s = world.env.run(until=decided)
    return world.source.endpoint.mode, at_s - opened_s[0]


def missed(scenario: Scenario, seeds: range, path: Callable[[World], None] = lambda _: None) -> int:
    """How often a source that waits for a greeting gives up on a destination that sends one."""
    return sum(decide(scenario, "c", seed, path)[0] == "v1" for seed in seeds)


def law(name: str, scale_ms: float, shape: float, timeout_s: float, **more: Any) -> Scenario:
    return BASE.vary(
        link__delay_law=name,
        link__jitter_ms=scale_ms,
        link__shape=shape,
        link__delay_ms=2.0,
        detect_timeout_s=timeout_s,
        **more,
    )


# --- a timeout that misses ------------------------------------------------------------------------------------------
LAWS = {
    "lognormal": (oracle.lognormal(0.010, 1.0, 0.002), ("lognormal", 10.0, 1.0)),
    "heavy lognormal": (oracle.lognormal(0.005, 2.0, 0.002), ("lognormal", 5.0, 2.0)),
    "pareto": (oracle.pareto(0.010, 1.2, 0.002), ("pareto", 10.0, 1.2)),
    "exponential": (oracle.exponential(0.010, 0.002), ("exponential", 10.0, 1.0)),
}


@pytest.mark.parametrize("timeout_s", [0.03, 0.1])
@pytest.mark.parametrize("name", LAWS)
def test_a_timeout_misses_as_often_as_the_closed_form_says(name: str, timeout_s: float) -> None:
    leg, parameters = LAWS[name]
    expected = oracle.there_and_back(leg, leg)(timeout_s)
    assert abs(oracle.sigmas(missed(law(*parameters, timeout_s), range(FEW)), FEW, expected)) < SIGMAS


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_a_timeout_misses_as_often_as_the_closed_form_says_in_40000_runs(name: str) -> None:
    """`make oracles` does it in a million, and has the other laws too."""
    leg, parameters = LAWS[name]
    expected = oracle.there_and_back(leg, leg)(0.05)
    assert abs(oracle.sigmas(missed(law(*parameters, 0.05), range(40_000)), 40_000, expected)) < SIGMAS


def with_back_off() -> tuple[float, Scenario]:
    leg, parameters = LAWS["exponential"]
    two = oracle.there_and_back(leg, leg)
    return oracle.with_loss(two, 0.3, oracle.attempts(0.2, 2))(0.5), law(*parameters, 0.5, link__loss=0.3)


def test_losses_with_the_kernels_back_off_miss_as_often_as_the_closed_form_says() -> None:
    expected, scenario = with_back_off()
    hits = missed(scenario, range(FEW))
    assert 0.05 < expected < 0.15 and abs(oracle.sigmas(hits, FEW, expected)) < SIGMAS


def bursty(bursts: Any, delay_s: float) -> Callable[[World], None]:
    """The way back is good or bad by turns; what is lost goes again after 0.2, 0.4, 0.8 ... s."""

    def put(world: World) -> None:
        rng = random.Random(f"bursts {world.setup.seed}")
        sent_s = oracle.attempts(0.2, 2, 16)
        bad, until_s = rng.random() < bursts.bad, 0.0

        def delay(_: random.Random) -> float:
            nonlocal bad, until_s
            for wait_s in sent_s:
                while until_s <= world.env.now + wait_s:
                    until_s += rng.expovariate(bursts.to_good if bad else bursts.to_bad)
                    bad = not bad
                # `bad` is the state after `until_s`: before it, the other one
                if rng.random() >= (bursts.loss_good if bad else bursts.loss_bad):
                    return wait_s + delay_s
            return 1e6

        world.net.paths[False] = Path(lambda r: delay_s)
        host, arrive = world.destination, world.destination.feed

        def greet(input: Any) -> Any:  # the SYN-ACK is past: from now on it matters
            world.net.paths[False] = Path(delay)
            return arrive(input)

        host.feed = lambda input: greet(input) if type(input).__name__ == "Opened" else arrive(input)  # type: ignore[method-assign]

    return put


BURSTS = {"long": oracle.Bursts(0.5, 1.0), "short": oracle.Bursts(0.2, 3.0, 0.05, 0.9)}


def in_bursts(bursts: Any) -> tuple[float, Scenario, Callable[[World], None]]:
    timeout_s, delay_s = 1.0, 0.002
    expected = oracle.missed_in_bursts(bursts, delay_s, oracle.attempts(0.2, 2, 16))(timeout_s - delay_s)
    return expected, BASE.vary(link__delay_ms=2.0, detect_timeout_s=timeout_s), bursty(bursts, delay_s)


@pytest.mark.parametrize("name", BURSTS)
def test_bursts_of_loss_miss_as_often_as_the_closed_form_says(name: str) -> None:
    expected, scenario, path = in_bursts(BURSTS[name])
    hits = missed(scenario, range(FEW), path)
    assert 0.005 < expected < 0.5 and abs(oracle.sigmas(hits, FEW, expected)) < SIGMAS


@pytest.mark.parametrize("bursts", [oracle.Bursts(0.5, 1.0), oracle.Bursts(2.0, 9.0, 0.1, 0.7)], ids=["long", "short"])
def test_bursts_drawn_step_by_step_agree_with_the_matrix_product(bursts: Any) -> None:
    sent_s, rng = oracle.attempts(0.2, 2, 4), random.Random(5)
    hits = sum(bursts.simulate(sent_s, rng) for _ in range(20_000))
    assert abs(oracle.sigmas(hits, 20_000, bursts.all_lost(sent_s))) < SIGMAS


def test_long_pauses_make_bursts_look_like_independent_losses() -> None:
    bursts = oracle.Bursts(0.5, 1.0)
    assert bursts.all_lost([0, 1e3, 2e3]) == pytest.approx(bursts.bad**3) and bursts.all_lost([0, 1e-9]) > 0.99 / 3


def test_the_timeout_for_an_error_is_the_inverse_of_the_error_of_a_timeout() -> None:
    for leg, _ in LAWS.values():
        assert leg(oracle.inverse(leg, 1e-6)) == pytest.approx(1e-6, rel=1e-6)


# --- how long a verdict takes ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", LAWS)
def test_the_expected_time_to_a_verdict_is_that_of_the_closed_form(name: str) -> None:
    leg, parameters = LAWS[name]
    timeout_s, capped_s = 0.1, []
    for seed in range(FEW):
        mode, took_s = decide(law(*parameters, timeout_s), "c", seed)
        capped_s.append(took_s)
        assert (mode == "v1") == (took_s >= timeout_s - 1e-12)
    expected = oracle.expected_detection_s(oracle.there_and_back(leg, leg), timeout_s)
    assert abs(plain.mean(capped_s) - expected) < SIGMAS * plain.stdev(capped_s) / math.sqrt(FEW)


def test_the_closed_lognormal_time_is_that_of_the_integral() -> None:
    for timeout_s in (0.01, 0.1, 10):
        closed = oracle.expected_lognormal_s(0.010, 1.0, timeout_s)
        assert oracle.expected_detection_s(oracle.lognormal(0.010, 1.0), timeout_s) == pytest.approx(closed, rel=1e-4)


def test_a_path_that_answers_nothing_costs_the_whole_timeout() -> None:
    one_way = find("detect_one_way").vary(detect_timeout_s=0.7)
    row = decide(one_way, "c", 1)
    assert row[0] == "v1" and row[1] == pytest.approx(oracle.dead_path_s(0.7), abs=1e-3)


# --- who arrives first ----------------------------------------------------------------------------------------------
def arrivals(seed: int, extra: int, path: Path, head_start_s: float = 0.0) -> list[str]:
    """The order in which 1 + `extra` connections that start together are taken."""
    env = Clock()
    net = Net(env, random.Random(seed), path, Path(lambda _: 0.001))
    net.backlog, net.listening = 64, True
    for name in ("main", *(f"extra {n}" for n in range(extra))):
        start_s = 0.0 if name == "main" else head_start_s
        net.connect(name, None, None, lambda *_: None, start_s)  # type: ignore[arg-type]
    env.run()
    return [c.name for c in net.accept_queue]


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_main_comes_first_once_in_as_many_as_there_are_whatever_the_law(loss: float) -> None:
    for delay in (lambda r: r.lognormvariate(-4, 1), lambda r: 0.01 * r.paretovariate(1.1)):
        orders = [arrivals(seed, 4, Path(delay, syn_loss=loss)) for seed in range(2000)]
        first = sum(o[0] == "main" for o in orders)
        whole = sum(o == sorted(o, key=lambda n: (n != "main", n)) for o in orders)
        assert abs(oracle.sigmas(first, len(orders), oracle.main_first(4))) < SIGMAS
        assert abs(oracle.sigmas(whole, len(orders), oracle.all_in_order(4))) < SIGMAS


def test_lost_syns_alone_put_main_first_as_often_as_the_closed_form_says() -> None:
    loss = 0.2
    orders = [arrivals(seed, 3, Path(lambda _: 0.01, syn_loss=loss)) for seed in range(2000)]
    sent_s = [sum(SYN_GAPS_S[:k]) for k in range(8)]
    times = [  # the SYN is lost k times, then perhaps the last ACK
        (sent + extra_s, loss**k * (1 - loss) * share)
        for k, sent in enumerate(sent_s)
        for extra_s, share in ((0.0, 1 - loss), (SYN_ACK_GAP_S, loss))
    ]
    first = sum(o[0] == "main" for o in orders)
    assert abs(oracle.sigmas(first, len(orders), oracle.main_first_of(times, 3))) < SIGMAS


def test_the_ties_of_lost_syns_have_a_closed_form() -> None:
    times = [(k, 0.3**k * 0.7) for k in range(60)]
    assert oracle.main_first_of(times, 4) == pytest.approx(oracle.main_first(4, 0.3))
    assert oracle.all_in_order(1, 0.3) == pytest.approx(oracle.main_first(1, 0.3))


def test_a_head_start_helps_main_as_much_as_the_closed_form_says() -> None:
    delay = oracle.exponential(0.020)
    assert oracle.main_first_by_head_start(delay, 4, 0.03) == pytest.approx(1 - 4 / 5 * math.exp(-1.5), abs=1e-5)
    two_legs = Path(lambda rng: rng.expovariate(1 / 0.020))  # the SYN's, and that of the ACK that ends the set-up

    def survival(s: float) -> float:
        return math.exp(-s / 0.020) * (1 + s / 0.020)

    orders = [arrivals(seed, 4, two_legs, 0.03) for seed in range(2000)]
    first = sum(o[0] == "main" for o in orders)
    assert abs(oracle.sigmas(first, len(orders), oracle.main_first_by_head_start(survival, 4, 0.03))) < SIGMAS


def test_syn_back_off_has_no_mean_from_one_loss_in_two_on() -> None:
    assert oracle.syn_backoff_s(0.1) == pytest.approx(sum(0.1**k * 0.9 * (2**k - 1) for k in range(60)))
    assert oracle.syn_backoff_s(0.5) == math.inf


# --- intervals and sensitivity --------------------------------------------------------------------------------------
def test_a_wilson_interval_holds_the_rate_in_95_of_100() -> None:
    rng, holds = random.Random(7), 0
    for _ in range(1000):
        interval = oracle.wilson(sum(rng.random() < 0.03 for _ in range(200)), 200)
        holds += interval.low <= 0.03 <= interval.high
    assert abs(oracle.sigmas(holds, 1000, 0.95)) < SIGMAS
    assert oracle.wilson(0, 1000).high == pytest.approx(0.00383, abs=1e-5) and oracle.wilson(0, 1000).low == 0


def test_a_bootstrap_interval_holds_the_median_in_95_of_100() -> None:
    rng = random.Random(8)
    intervals = [oracle.quantile([rng.gauss(0, 1) for _ in range(80)], 0.5, seed, 400) for seed in range(300)]
    assert sum(f.low <= 0 <= f.high for f in intervals) > 0.95 * 300 - SIGMAS * math.sqrt(300 * 0.05 * 0.95)


def test_sensitivity_finds_what_matters() -> None:
    ranges = {"much": (0.0, 1.0), "little": (0.0, 1.0), "nothing": (0.0, 1.0)}
    indices = oracle.sensitivity(ranges, lambda v: 4 * v["much"] + v["little"])
    alone = {name: first.value for name, (first, _) in indices.items()}
    assert alone["much"] == pytest.approx(16 / 17, abs=0.05) and alone["nothing"] == pytest.approx(0, abs=0.02)
