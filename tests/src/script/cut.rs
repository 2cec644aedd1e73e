//! Ways to cut an input up, and the check that they make no difference.
//!
//! A way is the sizes of the pieces, in order; none of them is 0.

use std::{fmt::Debug, iter};

use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use rand::{RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;
use wirestate_core::Machine;

use super::{Op, Transcript, play_out};

/// The `len` bytes in one piece.
pub fn whole(len: usize) -> Vec<usize> {
    if len == 0 { Vec::new() } else { vec![len] }
}

/// The `len` bytes in pieces of one.
pub fn byte_by_byte(len: usize) -> Vec<usize> {
    vec![1; len]
}

/// Ways to cut `len` bytes, from one piece to many, to draw.
pub fn cuts(len: usize) -> impl Strategy<Value = Vec<usize>> {
    let longest = len.max(1);
    // Each piece's most is drawn first, so that large and small pieces come together.
    vec((1..=longest).prop_flat_map(|most| 1..=most), len).prop_map(move |sizes| {
        let mut left = len;
        let mut cut: Vec<usize> = sizes
            .into_iter()
            .map_while(|size| {
                let size = size.min(left);
                left -= size;
                (size > 0).then_some(size)
            })
            .collect();
        cut.extend((left > 0).then_some(left));
        cut
    })
}

/// Every way to cut `len` bytes: there are 2^(`len` − 1).
///
/// # Panics
/// If `len` is greater than 24: nobody would wait for it.
pub fn every_cut(len: usize) -> impl Iterator<Item = Vec<usize>> {
    assert!(len <= 24, "there are 2^{} ways to cut {len} bytes", len - 1);
    // Bit i of `borders`: there is a cut behind byte i.
    (0..1_u32 << len.saturating_sub(1)).map(move |borders| {
        let ends = (1..len).filter(|end| borders & (1 << (end - 1)) != 0).chain(iter::once(len));
        let mut start = 0;
        let sizes = ends.map(|end| end - std::mem::replace(&mut start, end));
        sizes.filter(|size| *size > 0).collect()
    })
}

/// Every way to cut `len` bytes once, and not at all.
pub fn every_cut_in_two(len: usize) -> impl Iterator<Item = Vec<usize>> {
    let once = (1..len).map(move |first| vec![first, len - first]);
    iter::once(whole(len)).chain(once)
}

/// `input` in pieces of the sizes of `cut`, as far as they go.
pub fn pieces<'a>(input: &'a [u8], cut: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = input;
    cut.iter().map(move |size| {
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        rest = after;
        piece
    })
}

/// Asserts that what `decode` makes of `input` does not depend on how it is cut: whole, byte by byte,
/// and in 8 ways that are drawn (the same ones each time). Answers what it makes of it. For
/// decoders that are no machines; for machines there is [`split_invariant`].
///
/// ```
/// use wirestate_testkit::script;
///
/// let lines = |pieces: &[&[u8]]| pieces.concat().split(|byte| *byte == b'\n').count();
/// assert_eq!(script::cut_invariant(b"one\ntwo", lines), 2);
/// ```
///
/// # Panics
/// If it does depend on it, with the way to cut.
pub fn cut_invariant<T: PartialEq + Debug>(input: &[u8], decode: impl Fn(&[&[u8]]) -> T) -> T {
    let rng = &mut XorShiftRng::seed_from_u64(input.len() as u64);
    let mut drawn = || {
        let (mut left, mut cut) = (input.len(), Vec::new());
        let most = rng.random_range(1..=left.max(1));
        while left > 0 {
            let size = rng.random_range(1..=most.min(left));
            left -= size;
            cut.push(size);
        }
        cut
    };
    let decode = |cut: &[usize]| decode(&pieces(input, cut).collect::<Vec<_>>());
    let expected = decode(&whole(input.len()));
    for cut in [byte_by_byte(input.len())].into_iter().chain((0..8).map(|_| drawn())) {
        assert_eq!(decode(&cut), expected, "cut into {cut:?}");
    }
    expected
}

/// Asserts that what `machine` makes of `input` and a FIN does not depend on how the input is cut:
/// whole, byte by byte, and in 64 ways that are drawn (the same ones each time). Answers what it
/// makes of it.
///
/// # Panics
/// If it does depend on it, with the way to cut.
pub fn split_invariant<M: Machine>(machine: impl Fn() -> M, input: &[u8]) -> Transcript {
    let mut runner = TestRunner::deterministic();
    let drawn = iter::repeat_with(|| {
        cuts(input.len()).new_tree(&mut runner).expect("the strategy rejects nothing").current()
    });
    let cuts = iter::once(byte_by_byte(input.len())).chain(drawn.take(64));
    invariant(machine, input, cuts)
}

/// [`split_invariant`] for every way to cut `input`.
///
/// # Panics
/// If it does depend on it, with the way to cut; or as [`every_cut`] does.
pub fn split_invariant_exhaustive<M: Machine>(machine: impl Fn() -> M, input: &[u8]) -> Transcript {
    invariant(machine, input, every_cut(input.len()))
}

fn invariant<M: Machine>(
    machine: impl Fn() -> M,
    input: &[u8],
    cuts: impl Iterator<Item = Vec<usize>>,
) -> Transcript {
    let played = |cut: &[usize], at_once: bool| {
        // The output is taken after each piece, or all of it at the end.
        let taken = (!at_once).then_some(Op::Accept(usize::MAX));
        let ops: Vec<Op> = pieces(input, cut)
            .flat_map(|piece| iter::once(Op::Receive(piece.to_vec())).chain(taken.clone()))
            .chain([Op::Eof])
            .collect();
        play_out(&mut machine(), &ops)
    };
    let expected = played(&whole(input.len()), true);
    for cut in cuts {
        for at_once in [false, true] {
            assert_eq!(played(&cut, at_once), expected, "cut into {cut:?}, {at_once}");
        }
    }
    expected
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_cut_is_every_cut_once() {
        assert_eq!(every_cut(0).collect::<Vec<_>>(), [[0_usize; 0]]);
        let cuts: BTreeSet<_> = every_cut(5).collect();
        assert_eq!((cuts.len(), every_cut(5).count()), (16, 16));
        assert!(cuts.iter().all(|cut| cut.iter().sum::<usize>() == 5 && !cut.contains(&0)));
    }

    proptest! {
        #[test]
        fn pieces_are_the_input(input in vec(any::<u8>(), 0..40), cut in (0..40_usize).prop_flat_map(cuts)) {
            let joined = pieces(&input, &cut).collect::<Vec<_>>().concat();
            prop_assert!(input.starts_with(&joined));
            prop_assert_eq!(joined.len(), input.len().min(cut.iter().sum()));
            prop_assert!(!cut.contains(&0));
        }
    }
}
