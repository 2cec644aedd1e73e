//! A gate between a sender that writes at given times and a receiver that accepts some bytes a
//! write.

use core::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::{
    faults::{Injector, Plan, Sometimes},
    proxy::Side,
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn at(n: u64) -> Instant {
    Instant::from_epoch(ms(n))
}

fn gate(faults: Faults, connection: u64) -> Gate {
    let plan = Plan::default().with_to_client(faults);
    Injector::new(plan, 7).unwrap().gate(connection, Side::Client)
}

/// What the receiver sees.
#[derive(Debug, Default)]
struct Transcript {
    /// When which bytes passed.
    writes: Vec<(Instant, Range<u64>)>,
    /// When the FIN passed.
    fin: Option<Instant>,
    ending: Option<(Instant, Ending)>,
    strikes: Vec<Strike>,
    discarded: u64,
}

impl Transcript {
    fn passed(&self) -> u64 {
        self.writes.last().map_or(0, |(_, range)| range.end)
    }

    /// What does not depend on how the input was cut: the fault, the position, the size, the time.
    fn structure(&self) -> Vec<(Kind, u64, Option<u64>, Option<Duration>)> {
        let strikes = self.strikes.iter();
        let mut kept: Vec<_> =
            strikes.map(|strike| (strike.kind, strike.at, strike.bytes, strike.time)).collect();
        // At one position, a piece ends before or after another fault strikes.
        kept.sort_by_key(|(kind, at, ..)| (*at, *kind));
        kept
    }
}

/// Sends to `gate`: the number of bytes that arrive at each time, in order, and then the FIN.
/// `max` bytes are accepted in a write.
fn pass(gate: &mut Gate, arrivals: &[(u64, usize)], fin: u64, max: usize) -> Transcript {
    let (mut now, mut seen) = (Instant::EPOCH, Transcript::default());
    let (mut next, mut received, mut has_fin) = (0, 0, false);
    for _ in 0..1_000_000 {
        while let Some((_, n)) = arrivals.get(next).filter(|(time, _)| at(*time) <= now) {
            gate.received(*n, now);
            received += *n as u64;
            next += 1;
        }
        if !has_fin && next == arrivals.len() && at(fin) <= now {
            gate.received_fin(now);
            has_fin = true;
        }
        assert!(gate.arrivals.len() <= MAX_ARRIVALS && gate.strikes.len() <= MAX_STRIKES);
        let pending = received - seen.passed() - seen.discarded;
        let wanted = match usize::try_from(pending).unwrap() {
            0 if has_fin => Wanted::Fin,
            0 => Wanted::Nothing,
            pending => Wanted::Bytes(pending),
        };
        let decision = gate.next(wanted, now);
        assert_eq!(gate.next(wanted, now), decision, "it is the same at the same time");
        match (decision, wanted) {
            (Decision::Hold(until), _) => {
                assert!(until > now, "a deadline must lie ahead");
                assert_eq!(gate.poll_timeout(), Some(until));
                let arrival = arrivals.get(next).map_or(fin, |(time, _)| *time);
                now = if has_fin { until } else { until.min(at(arrival).max(now)) };
                continue;
            }
            (Decision::End(ending), _) => {
                seen.ending = Some((now, ending));
                gate.ended();
            }
            (Decision::Pass(n), Wanted::Bytes(pending)) => {
                assert!((1..=pending).contains(&n), "{n} of {pending}");
                let n = n.min(max);
                gate.passed(n, now);
                seen.writes.push((now, seen.passed()..seen.passed() + n as u64));
            }
            (Decision::Discard, Wanted::Bytes(pending)) => seen.discarded += pending as u64,
            (Decision::Pass(_), Wanted::Fin) => {
                seen.fin = Some(now);
                seen.strikes.extend(gate.take_strikes());
                return seen;
            }
            (Decision::Discard, Wanted::Fin) => {
                seen.strikes.extend(gate.take_strikes());
                return seen;
            }
            (Decision::Pass(_) | Decision::Discard, Wanted::Nothing) => {
                let arrival = arrivals.get(next).map_or(fin, |(time, _)| *time);
                now = now.max(at(arrival));
            }
        }
        seen.strikes.extend(gate.take_strikes());
    }
    panic!("no end: {seen:?}");
}

/// One arrival of `n` bytes, and a FIN at once.
fn pass_at_once(faults: Faults, n: usize) -> Transcript {
    pass(&mut gate(faults, 1), &[(0, n)], 0, usize::MAX)
}

#[test]
fn without_faults_everything_passes_at_once() {
    let seen = pass_at_once(Faults::default(), 100_000);
    assert_eq!(seen.writes, [(at(0), 0..100_000)]);
    assert_eq!((seen.fin, seen.strikes), (Some(at(0)), [].into()));
}

#[test]
fn bytes_and_the_fin_are_delayed_alike() {
    let faults = Faults::default().with_delay(Sometimes::always(ms(20)..=ms(20)));
    let seen = pass(&mut gate(faults, 1), &[(0, 5), (7, 3)], 8, usize::MAX);
    assert_eq!(seen.writes, [(at(20), 0..5), (at(27), 5..8)]);
    assert_eq!(seen.fin, Some(at(28)));
}

#[test]
fn jitter_keeps_the_order() {
    let faults = Faults::default().with_jitter(Sometimes::always(ms(0)..=ms(50)));
    let arrivals: Vec<_> = (0..100).map(|time| (time, 2)).collect();
    let seen = pass(&mut gate(faults, 1), &arrivals, 100, usize::MAX);
    let delays = seen.writes.iter().map(|(time, range)| time.since(at(range.start / 2)));
    assert!(delays.clone().all(|delay| delay <= ms(50)), "{seen:?}");
    assert!(delays.clone().any(|delay| delay > ms(30)), "{seen:?}");
    assert!(seen.fin >= seen.writes.last().map(|(time, _)| *time));
}

#[test]
fn pieces_have_their_lengths_and_pauses() {
    let slice = Slice { bytes: 2..=5, pause: ms(1)..=ms(3) };
    let seen = pass_at_once(Faults::default().with_slice(Sometimes::always(slice)), 1000);
    let (mut lengths, mut pauses) = (Vec::new(), Vec::new());
    for pair in seen.writes.windows(2) {
        lengths.push(pair[0].1.end - pair[0].1.start);
        pauses.push(pair[1].0.since(pair[0].0));
    }
    lengths.sort_unstable();
    lengths.dedup();
    assert_eq!(lengths, [2, 3, 4, 5]);
    assert!(pauses.iter().all(|pause| (ms(1)..=ms(3)).contains(pause)));
    assert_eq!(seen.strikes.iter().filter(|strike| strike.is_first).count(), 1);
}

#[test]
fn a_rate_is_kept_from_one_byte_a_second_on() {
    for (rate, bytes, seconds) in [(1, 10, 9.0), (1000, 10_000, 9.99), (1 << 20, 10 << 20, 9.99)] {
        let faults = Faults::default().with_rate(Sometimes::always(rate..=rate));
        let seen = pass_at_once(faults, bytes);
        let took = seen.fin.unwrap().since(at(0)).as_secs_f64();
        assert!((seconds - 0.03..=seconds + 0.01).contains(&took), "{rate}: {took}");
        assert!(seen.writes.len() <= 1010, "{rate}: {} writes", seen.writes.len());
    }
}

#[test]
fn a_stall_begins_with_the_byte_that_it_holds() {
    let stall = super::super::Stall { after: 4..=4, time: ms(100)..=ms(100) };
    let faults = || Faults::default().with_stall(Sometimes::always(stall.clone()));
    let seen = pass(&mut gate(faults(), 1), &[(0, 4), (50, 4)], 50, usize::MAX);
    assert_eq!(seen.writes, [(at(0), 0..4), (at(150), 4..8)]);
    let seen = pass(&mut gate(faults(), 1), &[(0, 4)], 30, usize::MAX);
    assert_eq!((seen.writes, seen.fin), ([(at(0), 0..4)].into(), Some(at(130))));
}

#[test]
fn an_ending_comes_after_its_bytes_and_after_a_stall() {
    for (ending, faults) in [
        (Ending::Reset, Faults::default().with_reset(Sometimes::always(6..=6))),
        (Ending::HalfClose, Faults::default().with_half_close(Sometimes::always(6..=6))),
        (Ending::BlackHole, Faults::default().with_black_hole(Sometimes::always(6..=6))),
    ] {
        let seen = pass_at_once(faults.clone(), 10);
        assert_eq!(seen.writes, [(at(0), 0..6)]);
        assert_eq!((seen.ending, seen.discarded), (Some((at(0), ending)), 4));
        assert_eq!(seen.fin, None, "the FIN of the sender is discarded as well");
        let stall = super::super::Stall { after: 6..=6, time: ms(9)..=ms(9) };
        let seen = pass_at_once(faults.with_stall(Sometimes::always(stall)), 6);
        assert_eq!(seen.ending, Some((at(9), ending)));
    }
}

#[test]
fn only_the_first_ending_strikes() {
    let faults = Faults::default()
        .with_half_close(Sometimes::always(5..=5))
        .with_black_hole(Sometimes::always(4..=4))
        .with_reset(Sometimes::always(5..=5));
    assert_eq!(pass_at_once(faults.clone(), 10).ending, Some((at(0), Ending::BlackHole)));
    let faults = faults.with_black_hole(None);
    assert_eq!(pass_at_once(faults, 10).ending, Some((at(0), Ending::Reset)));
}

#[test]
fn a_deadline_that_nobody_asked_for_again_is_forgotten() {
    let faults = Faults::default().with_delay(Sometimes::always(ms(20)..=ms(20)));
    let mut gate = gate(faults, 1);
    gate.received(1, at(0));
    assert_eq!(gate.next(Wanted::Bytes(1), at(0)), Decision::Hold(at(20)));
    gate.handle_timeout(at(19));
    assert_eq!(gate.poll_timeout(), Some(at(20)));
    gate.handle_timeout(at(20));
    assert_eq!(gate.poll_timeout(), None);
}

/// The times of arrivals are limited, so a flood of them costs no memory.
#[test]
fn a_flood_of_arrivals_passes_late_and_in_order() {
    let faults = Faults::default().with_delay(Sometimes::always(ms(60_000)..=ms(60_000)));
    let arrivals: Vec<_> = (0..5000).map(|time| (time, 1)).collect();
    let seen = pass(&mut gate(faults, 1), &arrivals, 5000, usize::MAX);
    assert_eq!(seen.passed(), 5000);
    assert_eq!((seen.writes.len(), seen.fin), (MAX_ARRIVALS, Some(at(65_000))));
}

fn times() -> impl Strategy<Value = core::ops::RangeInclusive<Duration>> {
    (0..40_u64, 0..40_u64).prop_map(|(first, more)| ms(first)..=ms(first + more))
}

fn positions() -> impl Strategy<Value = core::ops::RangeInclusive<u64>> {
    (0..400_u64, 0..400_u64).prop_map(|(first, more)| first..=first + more)
}

fn sometimes<T: core::fmt::Debug + Clone>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<Sometimes<T>>> {
    proptest::option::weighted(
        0.3,
        (500..=1000_u16, value).prop_map(|(chance, value)| Sometimes { chance, value }),
    )
}

fn plans() -> impl Strategy<Value = Faults> {
    let slice = (1..9_u64, 0..9_u64, times())
        .prop_map(|(first, more, pause)| Slice { bytes: first..=first + more, pause });
    let rate = (1..5000_u64).prop_map(|rate| rate..=rate + 10);
    let stall =
        (positions(), times()).prop_map(|(after, time)| super::super::Stall { after, time });
    (
        sometimes(slice),
        sometimes(times()),
        sometimes(times()),
        sometimes(rate),
        sometimes(stall),
        [sometimes(positions()), sometimes(positions()), sometimes(positions())],
    )
        .prop_map(|(slice, delay, jitter, rate, stall, [half_close, reset, black_hole])| {
            Faults { slice, delay, jitter, rate, stall, half_close, reset, black_hole }
        })
}

/// The same bytes in other cuts, at the same times or later.
fn arrivals() -> impl Strategy<Value = [Vec<(u64, usize)>; 2]> {
    let cuts = || proptest::collection::vec((0..30_u64, 1..60_usize), 1..20);
    (cuts(), cuts()).prop_map(|lists| {
        let [mut first, mut second] = [lists.0, lists.1].map(|list| {
            let mut time = 0;
            let later = |(wait, n)| {
                time += wait;
                (time, n)
            };
            list.into_iter().map(later).collect::<Vec<_>>()
        });
        let total = |list: &[(u64, usize)]| list.iter().map(|(_, n)| n).sum::<usize>();
        let (one, other) = (total(&first), total(&second));
        let shorter = if one < other { &mut first } else { &mut second };
        if one != other {
            let end = shorter.last().map_or(0, |(time, _)| *time);
            shorter.push((end, one.abs_diff(other)));
        }
        [first, second]
    })
}

proptest! {
    /// Whatever the plan and the arrivals: each byte passes once and in order or is discarded at
    /// the end, the direction ends, and where a fault strikes depends on positions alone.
    #[test]
    fn positions_depend_on_the_seed_alone(
        faults in plans(),
        connection in 0..100_u64,
        [first, second] in arrivals(),
        max in 1..70_usize,
    ) {
        let fin = first.last().unwrap().0.max(second.last().unwrap().0);
        let sent = first.iter().map(|(_, n)| *n as u64).sum::<u64>();
        let seen = pass(&mut gate(faults.clone(), connection), &first, fin, usize::MAX);
        prop_assert_eq!(seen.passed() + seen.discarded, sent);
        prop_assert_eq!(seen.fin.is_some(), seen.ending.is_none());
        for pair in seen.writes.windows(2) {
            prop_assert_eq!(pair[0].1.end, pair[1].1.start);
            prop_assert!(pair[0].0 <= pair[1].0);
        }
        let again = pass(&mut gate(faults.clone(), connection), &first, fin, usize::MAX);
        prop_assert_eq!(&again.writes, &seen.writes);
        prop_assert_eq!(&again.strikes, &seen.strikes);
        let cut = pass(&mut gate(faults, connection), &second, fin, max);
        prop_assert_eq!(cut.structure(), seen.structure());
        prop_assert_eq!(cut.passed(), seen.passed());
        prop_assert_eq!(cut.ending.map(|it| it.1), seen.ending.map(|it| it.1));
    }
}
