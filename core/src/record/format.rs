//! The encoding of a recording, which `docs/recordings.md` describes.

use alloc::vec::Vec;

use super::ReadErrorKind;
use crate::{ConnectionError, Direction};

/// How a recording begins, before its version.
pub(super) const MAGIC: &[u8] = b"wirestate recording ";
/// The version that is written, and the only one that is read.
pub(super) const VERSION: &[u8] = b"1";

/// The kind of a record: the lower six bits of its first byte.
pub(super) mod kind {
    pub(crate) const RECEIVED: u8 = 1;
    pub(crate) const EOF: u8 = 2;
    pub(crate) const SENT: u8 = 3;
    pub(crate) const FINISHED: u8 = 4;
    pub(crate) const READ_ERROR: u8 = 5;
    pub(crate) const WRITE_ERROR: u8 = 6;
    pub(crate) const TIMEOUT: u8 = 7;
    pub(crate) const SHUT_DOWN: u8 = 8;
    pub(crate) const SHARED: u8 = 9;
    pub(crate) const NOTE: u8 = 10;
    pub(crate) const OUTSIDE: u8 = 11;
    pub(crate) const CHECKSUM: u8 = 12;
    pub(crate) const STOPPED: u8 = 13;
    pub(crate) const END: u8 = 14;
}

/// Set in the first byte of a record of the second side.
pub(super) const SECOND: u8 = 0x40;
/// Set in the first byte of a record before which time has passed.
pub(super) const LATER: u8 = 0x80;

/// Appends `number`, seven bits a byte, the lowest first. All bytes but the last have the high bit.
pub fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Takes a number from the start of `bytes`.
///
/// # Errors
/// It is cut, or has more than 64 bits.
pub fn take_number(bytes: &mut &[u8]) -> Result<u64, ReadErrorKind> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(bytes)?;
        let bits = u64::from(byte & 0x7f);
        if (bits << shift) >> shift != bits {
            break;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(ReadErrorKind::WrongRecord)
}

/// As [`take_number`], for a length in memory.
pub(super) fn take_len(bytes: &mut &[u8]) -> Result<usize, ReadErrorKind> {
    usize::try_from(take_number(bytes)?).map_err(|_| ReadErrorKind::WrongRecord)
}

pub(super) fn take_byte(bytes: &mut &[u8]) -> Result<u8, ReadErrorKind> {
    take_array(bytes).map(|[byte]| byte)
}

pub(super) fn take_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], ReadErrorKind> {
    let (array, rest) = bytes.split_first_chunk().ok_or(ReadErrorKind::Cut)?;
    *bytes = rest;
    Ok(*array)
}

/// Appends the length of `bytes`, and the bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes a length and as many bytes.
pub(super) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], ReadErrorKind> {
    let len = take_len(bytes)?;
    let (taken, rest) = bytes.split_at_checked(len).ok_or(ReadErrorKind::Cut)?;
    *bytes = rest;
    Ok(taken)
}

pub(super) fn error_kind(direction: Direction) -> u8 {
    match direction {
        Direction::Read => kind::READ_ERROR,
        Direction::Write => kind::WRITE_ERROR,
    }
}

pub(super) fn put_error(out: &mut Vec<u8>, error: ConnectionError) {
    match error {
        ConnectionError::Reset => out.push(0),
        ConnectionError::TimedOut => out.push(1),
        ConnectionError::Unreachable => out.push(2),
        ConnectionError::WriteZero => out.push(3),
        ConnectionError::Layer => out.push(4),
        ConnectionError::Other { errno } => {
            out.push(5);
            out.extend_from_slice(&errno.to_le_bytes());
        }
    }
}

pub(super) fn take_error(bytes: &mut &[u8]) -> Result<ConnectionError, ReadErrorKind> {
    Ok(match take_byte(bytes)? {
        0 => ConnectionError::Reset,
        1 => ConnectionError::TimedOut,
        2 => ConnectionError::Unreachable,
        3 => ConnectionError::WriteZero,
        4 => ConnectionError::Layer,
        5 => ConnectionError::Other { errno: i32::from_le_bytes(take_array(bytes)?) },
        _ => return Err(ReadErrorKind::WrongRecord),
    })
}
