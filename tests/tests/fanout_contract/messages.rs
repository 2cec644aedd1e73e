//! A second, simple implementation of the framings, with which the machines are compared.

use std::num::NonZeroUsize;

use proptest::prelude::*;
use wirestate_core::fanout::Framing;

pub(crate) const DELIMITER: u8 = b'\n';

pub(crate) fn size(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

pub(crate) fn fixed(n: usize) -> Framing {
    Framing::Fixed(size(n))
}

pub(crate) fn lines(max: usize) -> Framing {
    Framing::Delimited { delimiter: DELIMITER, max: size(max) }
}

pub(crate) fn prefixed(max: usize) -> Framing {
    Framing::LengthPrefixed { max: size(max) }
}

/// A framing, and the length of its messages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Frames {
    Fixed(usize),
    Lines(usize),
    Prefixed(usize),
}

impl Frames {
    pub(crate) fn framing(self) -> Framing {
        match self {
            Self::Fixed(size) => fixed(size),
            Self::Lines(max) => lines(max),
            Self::Prefixed(max) => prefixed(max),
        }
    }
}

/// Framings with messages of up to 40 bytes.
pub(crate) fn any_frames() -> impl Strategy<Value = Frames> {
    prop_oneof![
        (1..=40_usize).prop_map(Frames::Fixed),
        (1..=40_usize).prop_map(Frames::Lines),
        (4..=40_usize).prop_map(Frames::Prefixed),
    ]
}

/// The complete messages at the beginning of `stream`, up to one that is too long, and the bytes
/// after them.
pub(crate) fn parse(framing: Framing, mut stream: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut messages = Vec::new();
    loop {
        let length = match framing {
            Framing::Fixed(size) => Some(size.get()),
            Framing::Delimited { delimiter, max } => stream
                .iter()
                .position(|byte| *byte == delimiter)
                .map(|index| index + 1)
                .filter(|length| *length <= max.get()),
            Framing::LengthPrefixed { max } => stream
                .first_chunk()
                .map(|prefix| 4 + usize::try_from(u32::from_be_bytes(*prefix)).unwrap())
                .filter(|length| *length <= max.get()),
            Framing::None => unreachable!("there are no messages"),
        };
        match length {
            Some(length) if length <= stream.len() => {
                let (message, rest) = stream.split_at(length);
                messages.push(message);
                stream = rest;
            }
            Some(_) | None => return (messages, stream),
        }
    }
}

/// Whether `some` is a subsequence of `all`.
pub(crate) fn is_subsequence(some: &[&[u8]], all: &[&[u8]]) -> bool {
    let mut rest = all.iter();
    some.iter().all(|message| rest.any(|other| other == message))
}

/// Changes random bytes so that some of them form messages.
pub(crate) fn plausible(framing: Framing, bytes: &[u8]) -> Vec<u8> {
    let byte = |byte: &u8| match framing {
        Framing::Delimited { .. } if *byte < 40 => DELIMITER,
        Framing::LengthPrefixed { .. } if *byte < 160 => 0,
        Framing::LengthPrefixed { .. } => byte % 40,
        Framing::Fixed(_) | Framing::Delimited { .. } | Framing::None => *byte,
    };
    bytes.iter().map(byte).collect()
}
