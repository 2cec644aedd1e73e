//! Cuts of an input into pieces, and checks that the result does not depend on the cut.
//!
//! A cut is the list of its pieces' sizes, in order. No size is 0.

use std::{
    fmt::Debug,
    iter,
    panic::{AssertUnwindSafe, catch_unwind},
};

use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use rand::{RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;
use wirestate_core::Machine;

use super::{Op, Transcript, play_out};
use crate::{
    cases::print_script,
    failure::{Failure, Place, is_quiet, quietly},
};

/// The cut of `len` bytes into one piece.
pub fn whole(len: usize) -> Vec<usize> {
    if len == 0 { Vec::new() } else { vec![len] }
}

/// The cut of `len` bytes into single bytes.
pub fn byte_by_byte(len: usize) -> Vec<usize> {
    vec![1; len]
}

/// Random cuts of `len` bytes, as a strategy.
pub fn cuts(len: usize) -> impl Strategy<Value = Vec<usize>> {
    let max_size = len.max(1);
    // Each piece draws its maximum first, so that a cut has both large and small pieces.
    vec((1..=max_size).prop_flat_map(|max| 1..=max), len).prop_map(move |sizes| {
        let mut remaining = len;
        let mut cut: Vec<usize> = sizes
            .into_iter()
            .map_while(|size| {
                let size = size.min(remaining);
                remaining -= size;
                (size > 0).then_some(size)
            })
            .collect();
        cut.extend((remaining > 0).then_some(remaining));
        cut
    })
}

/// Every cut of `len` bytes: 2^(`len` − 1) cuts.
///
/// # Panics
/// If `len` is greater than 24.
#[track_caller]
pub fn every_cut(len: usize) -> impl Iterator<Item = Vec<usize>> {
    assert!(len <= 24, "{len} bytes have 2^{} cuts, the limit is 24 bytes", len - 1);
    // Bit i of `borders` is set if a piece ends behind byte i.
    (0..1_u32 << len.saturating_sub(1)).map(move |borders| {
        let ends = (1..len).filter(|end| borders & (1 << (end - 1)) != 0).chain(iter::once(len));
        let mut start = 0;
        let sizes = ends.map(|end| end - std::mem::replace(&mut start, end));
        sizes.filter(|size| *size > 0).collect()
    })
}

/// Every cut of `len` bytes into one or two pieces.
pub fn every_cut_in_two(len: usize) -> impl Iterator<Item = Vec<usize>> {
    let once = (1..len).map(move |first| vec![first, len - first]);
    iter::once(whole(len)).chain(once)
}

/// The pieces of `input` under `cut`. If `input` and `cut` differ in length, the rest of the longer
/// one is ignored.
pub fn pieces<'a>(input: &'a [u8], cut: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = input;
    cut.iter().map(move |size| {
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        rest = after;
        piece
    })
}

/// Asserts that `decode` returns the same for every cut of `input`, and returns the result.
///
/// It tries the whole input, single bytes and 8 random cuts, which are the same in each run. For
/// machines use [`split_invariant`].
///
/// ```
/// use wirestate_testkit::script;
///
/// let lines = |pieces: &[&[u8]]| pieces.concat().split(|byte| *byte == b'\n').count();
/// assert_eq!(script::cut_invariant(b"one\ntwo", lines), 2);
/// ```
///
/// # Panics
/// If a cut changes the result; the message has the cut.
#[track_caller]
pub fn cut_invariant<T: PartialEq + Debug>(input: &[u8], decode: impl Fn(&[&[u8]]) -> T) -> T {
    let rng = &mut XorShiftRng::seed_from_u64(input.len() as u64);
    let mut random_cut = || {
        let (mut remaining, mut cut) = (input.len(), Vec::new());
        let max = rng.random_range(1..=remaining.max(1));
        while remaining > 0 {
            let size = rng.random_range(1..=max.min(remaining));
            remaining -= size;
            cut.push(size);
        }
        cut
    };
    let decode = |cut: &[usize]| decode(&pieces(input, cut).collect::<Vec<_>>());
    let expected = decode(&whole(input.len()));
    for cut in [byte_by_byte(input.len())].into_iter().chain((0..8).map(|_| random_cut())) {
        assert_eq!(decode(&cut), expected, "cut into {cut:?}");
    }
    expected
}

/// Asserts that the result of `machine` is the same for every cut of `input`, and returns the
/// [`Transcript`] of the whole input. A FIN follows the input.
///
/// The result is what a peer or a log can see: the output, the ending and the reason, not how much
/// of the input was read. So `input` may have a frame that ends the connection, and bytes behind
/// it.
///
/// It tries the whole input, single bytes and 64 random cuts, which are the same in each run.
///
/// # Panics
/// If a cut changes the result, or if the machine panics. The cut with as few pieces as were found
/// is printed as a test. The message has the cut and the first difference.
#[track_caller]
pub fn split_invariant<M: Machine>(machine: impl Fn() -> M, input: &[u8]) -> Transcript {
    let mut runner = TestRunner::deterministic();
    let random_cuts = iter::repeat_with(|| {
        cuts(input.len()).new_tree(&mut runner).expect("the strategy rejects nothing").current()
    });
    let cuts = iter::once(byte_by_byte(input.len())).chain(random_cuts.take(64));
    invariant("split_invariant", machine, input, cuts)
}

/// Like [`split_invariant`], with [`every_cut`] of `input`.
///
/// # Panics
/// As [`split_invariant`], or if `input` is longer than 24 bytes.
#[track_caller]
pub fn split_invariant_exhaustive<M: Machine>(machine: impl Fn() -> M, input: &[u8]) -> Transcript {
    invariant("split_invariant_exhaustive", machine, input, every_cut(input.len()))
}

#[track_caller]
fn invariant<M: Machine>(
    callee: &str,
    machine: impl Fn() -> M,
    input: &[u8],
    cuts: impl Iterator<Item = Vec<usize>>,
) -> Transcript {
    let place = Place::of_caller();
    let ops = |cut: &[usize], at_end: bool| -> Vec<Op> {
        // The kernel accepts the output after each piece, or all of it at the end.
        let accept = (!at_end).then_some(Op::Accept(usize::MAX));
        let pieces = pieces(input, cut);
        let ops =
            pieces.flat_map(|piece| iter::once(Op::Receive(piece.to_vec())).chain(accept.clone()));
        ops.chain([Op::Eof]).collect()
    };
    let expected = play_out(&mut machine(), &ops(&whole(input.len()), true));
    for mut cut in cuts {
        for at_end in [false, true] {
            // A panic, or a difference.
            let fails = |cut: &[usize]| {
                let play = || play_out(&mut machine(), &ops(cut, at_end));
                let (result, panic) = quietly(|| catch_unwind(AssertUnwindSafe(play)));
                let Ok(transcript) = result else { return Some((panic.unwrap_or_default(), None)) };
                let difference = transcript.difference(&expected)?;
                let failure = Failure::at(place.location, &difference);
                Some((failure, Some((difference, transcript))))
            };
            let Some(mut found) = fails(&cut) else { continue };
            join_pieces(&mut cut, |cut| {
                let other = fails(cut).filter(|(failure, _)| failure.is_like(&found.0));
                let is_alike = other.is_some();
                found = other.unwrap_or_else(|| found.clone());
                is_alike
            });
            let (failure, difference) = found;
            let ops = ops(&cut, at_end);
            if !is_quiet() {
                let differs = difference.as_ref().map(|(_, actual)| (actual, &expected));
                eprint!("{}", print_script(&place, callee, &failure, &ops, differs));
            }
            let Some((difference, _)) = difference else {
                play_out(&mut machine(), &ops);
                panic!("the machine has panicked, but does not panic again");
            };
            panic!("cut into {cut:?}, output accepted at the end: {at_end}\n{difference}");
        }
    }
    expected
}

/// Joins neighbouring pieces of `cut`, many at first, while `fails` returns true for the result.
fn join_pieces(cut: &mut Vec<usize>, mut fails: impl FnMut(&[usize]) -> bool) {
    let mut count = cut.len();
    while count > 1 {
        let mut at = 0;
        while at + 1 < cut.len() {
            let end = cut.len().min(at + count);
            let mut joined = cut.clone();
            let size = joined[at..end].iter().sum();
            joined.splice(at..end, [size]);
            if fails(&joined) {
                *cut = joined;
            } else {
                at += 1;
            }
        }
        count = count.div_ceil(2).min(count - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_cut_lists_each_cut_once() {
        assert_eq!(every_cut(0).collect::<Vec<_>>(), [[0_usize; 0]]);
        let cuts: BTreeSet<_> = every_cut(5).collect();
        assert_eq!((cuts.len(), every_cut(5).count()), (16, 16));
        assert!(cuts.iter().all(|cut| cut.iter().sum::<usize>() == 5 && !cut.contains(&0)));
    }

    proptest! {
        #[test]
        fn pieces_join_to_the_input(
            input in vec(any::<u8>(), 0..40),
            cut in (0..40_usize).prop_flat_map(cuts),
        ) {
            let joined = pieces(&input, &cut).collect::<Vec<_>>().concat();
            prop_assert!(input.starts_with(&joined));
            prop_assert_eq!(joined.len(), input.len().min(cut.iter().sum()));
            prop_assert!(!cut.contains(&0));
        }
    }
}
