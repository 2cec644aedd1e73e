//! The reader of a recording.

use alloc::string::String;

use super::{
    Digest, Ended, Header, Stop,
    format::{
        LATER, SECOND, kind, take_array, take_byte, take_bytes, take_error, take_len, take_number,
    },
    recorder::ended_of_code,
};
use crate::{Direction, Event, Instant};

/// A recording in memory. All of it was checked, and nothing was allocated for it except for the
/// header, which has at most 64 KiB.
#[derive(Clone, Debug)]
pub struct Recording<'a> {
    header: Header,
    /// The whole records.
    records: &'a [u8],
    /// Where the records begin.
    start: usize,
    stop: Option<Stop>,
    end: Option<End<'a>>,
}

/// The end of a recorded session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End<'a> {
    /// How it has ended.
    pub ended: Ended,
    /// The bytes sent to each side, and their [`Digest`].
    pub output: [(u64, u64); 2],
    /// The label of the machine's reason; empty without a reason.
    pub label: &'a str,
    /// The text of the machine's reason.
    pub text: &'a str,
}

/// One thing that has happened to a recorded machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Where it is in the recording, in bytes.
    pub offset: usize,
    /// When it happened.
    pub at: Instant,
    /// The side of the connection: 0, or 1 for the second side of a relay.
    pub side: usize,
    /// What happened.
    pub what: What<'a>,
    /// What the machine has used from outside meanwhile
    /// ([`Recordable::take_outside`](super::Recordable::take_outside)).
    pub outside: &'a [u8],
}

/// What happened in a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// The machine was made.
    Start,
    /// [`Event::Read`].
    Received {
        /// How many bytes.
        len: usize,
        /// The bytes; `None` if the recording has no payloads.
        bytes: Option<&'a [u8]>,
    },
    /// [`Event::Written`].
    Sent {
        /// How many bytes.
        len: usize,
        /// The lower half of the [`Digest`] of all output so far.
        digest: u32,
    },
    /// [`Event::Finished`].
    Finished {
        /// After an RST, not a FIN.
        is_reset: bool,
    },
    /// Another event: `Eof`, `Error`, `Timeout` or `ShutDown`.
    Event(Event),
    /// `poll_shared` returned true.
    Shared,
    /// A method of the machine beyond the contract was called
    /// ([`Recorder::note`](super::Recorder::note)).
    Note(&'a [u8]),
}

/// Why a recording cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {kind}")]
pub struct ReadError {
    /// The place, in bytes from the start.
    pub offset: usize,
    /// What is wrong there.
    pub kind: ReadErrorKind,
}

/// What is wrong with a recording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadErrorKind {
    /// It does not begin as a recording.
    #[error("this is no recording")]
    NoRecording,
    /// It is of another version.
    #[error("the recording is of version `{found}`, but this program reads version 1")]
    Version {
        /// The version, at most 20 bytes of it.
        found: String,
    },
    /// A line of the header is wrong or missing, or the header is longer than 64 KiB.
    #[error("the header is wrong")]
    WrongHeader,
    /// It ends too early.
    #[error("the recording is cut")]
    Cut,
    /// A record has an unknown kind or a wrong form.
    #[error("the record is wrong")]
    WrongRecord,
    /// A checksum does not match what precedes it.
    #[error("the checksum is wrong: bytes before it were changed")]
    Checksum,
    /// Something follows the end.
    #[error("bytes follow the end")]
    BytesAfterEnd,
}

impl ReadErrorKind {
    pub(super) fn at(self, offset: usize) -> ReadError {
        ReadError { offset, kind: self }
    }
}

impl<'a> Recording<'a> {
    /// Reads a whole recording.
    ///
    /// # Errors
    /// It is cut, of another version, or wrong in any other way.
    pub fn read(bytes: &'a [u8]) -> Result<Self, ReadError> {
        let (recording, error) = Self::salvage(bytes)?;
        error.map_or(Ok(recording), Err)
    }

    /// Reads a recording up to the first mistake, such as the recording of a process that was
    /// killed. Returns the mistake, if there is one.
    ///
    /// # Errors
    /// The header cannot be read.
    pub fn salvage(bytes: &'a [u8]) -> Result<(Self, Option<ReadError>), ReadError> {
        let (header, start) = Header::decode(bytes)?;
        let mut records =
            Records { bytes, at: start, now: header.started_at, has_payloads: header.has_payloads };
        let (mut stop, mut end) = (None, None);
        // Up to where the checksums are right, and what was read up to there.
        let (mut checked, mut checked_end) = (0, (None, None));
        let error = loop {
            let offset = records.at;
            if offset == bytes.len() {
                break end.is_none().then(|| ReadErrorKind::Cut.at(offset));
            }
            let mistake = match records.next() {
                Err(error) => Some(error.kind),
                Ok(Record::Checksum(checksum)) => {
                    let mut digest = Digest::default();
                    digest.write(&bytes[checked..offset]);
                    let is_wrong = digest.short() != checksum;
                    if !is_wrong {
                        (checked, checked_end) = (records.at, (stop, end));
                    }
                    is_wrong.then_some(ReadErrorKind::Checksum)
                }
                Ok(_) if end.is_some() => Some(ReadErrorKind::BytesAfterEnd),
                Ok(Record::Step(_)) => stop.is_some().then_some(ReadErrorKind::WrongRecord),
                Ok(Record::Stopped(why)) => {
                    stop = Some(why);
                    None
                }
                Ok(Record::End(found)) => {
                    end = Some(found);
                    None
                }
                Ok(Record::Outside(_)) => None,
            };
            if let Some(mistake) = mistake {
                records.at = offset;
                // The bytes before a wrong checksum are not to be trusted.
                if mistake == ReadErrorKind::Checksum {
                    records.at = checked.max(start);
                    (stop, end) = checked_end;
                }
                break Some(mistake.at(offset));
            }
        };
        let records = &bytes[..records.at];
        Ok((Self { header, records, start, stop, end }, error))
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What happened, in order. The first step is [`What::Start`].
    pub fn steps(&self) -> Steps<'a> {
        let (offset, at) = (self.start, self.header.started_at);
        Steps {
            start: Some(Step { offset, at, side: 0, what: What::Start, outside: &[] }),
            records: Records {
                bytes: self.records,
                at: self.start,
                now: self.header.started_at,
                has_payloads: self.header.has_payloads,
            },
        }
    }

    /// Why the recording has stopped before the session had ended; `None` if it has not.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    /// The end of the session; `None` if the recording is cut.
    pub fn end(&self) -> Option<End<'a>> {
        self.end
    }
}

/// The steps of a recording.
#[derive(Clone, Debug)]
pub struct Steps<'a> {
    start: Option<Step<'a>>,
    records: Records<'a>,
}

impl<'a> Iterator for Steps<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        let start = self.start.take();
        let mut step = loop {
            if let Some(start) = start {
                break start;
            }
            match self.records.next().ok()? {
                Record::Step(step) => break step,
                Record::Outside(_) | Record::Checksum(_) | Record::Stopped(_) => {}
                Record::End(_) => return None,
            }
        };
        let mut following = self.records.clone();
        if let Ok(Record::Outside(outside)) = following.next() {
            step.outside = outside;
            self.records = following;
        }
        Some(step)
    }
}

enum Record<'a> {
    Step(Step<'a>),
    Outside(&'a [u8]),
    Checksum(u32),
    Stopped(Stop),
    End(End<'a>),
}

#[derive(Clone, Debug)]
struct Records<'a> {
    bytes: &'a [u8],
    /// Where the next record begins.
    at: usize,
    now: Instant,
    has_payloads: bool,
}

impl<'a> Records<'a> {
    fn next(&mut self) -> Result<Record<'a>, ReadError> {
        let offset = self.at;
        let mut rest = &self.bytes[offset..];
        let record = self.decode(offset, &mut rest).map_err(|kind| kind.at(offset))?;
        self.at = self.bytes.len() - rest.len();
        Ok(record)
    }

    fn decode(&mut self, offset: usize, rest: &mut &'a [u8]) -> Result<Record<'a>, ReadErrorKind> {
        let wrong = ReadErrorKind::WrongRecord;
        let first = take_byte(rest)?;
        let mut at = self.now;
        if first & LATER != 0 {
            let nanos = at.nanos().checked_add(take_number(rest)?);
            at = Instant::from_nanos(nanos.ok_or(wrong.clone())?);
        }
        let side = usize::from(first & SECOND != 0);
        let code = first & !(LATER | SECOND);
        if code >= kind::OUTSIDE && code != first {
            return Err(wrong);
        }
        let what = match code {
            kind::OUTSIDE => return take_bytes(rest).map(Record::Outside),
            kind::CHECKSUM => {
                return take_array(rest).map(u32::from_le_bytes).map(Record::Checksum);
            }
            kind::STOPPED => {
                let stop = Stop::ALL.get(usize::from(take_byte(rest)?)).copied();
                return stop.map(Record::Stopped).ok_or(wrong);
            }
            kind::END => return take_end(rest).map(Record::End),
            kind::RECEIVED if self.has_payloads => {
                let bytes = take_bytes(rest)?;
                What::Received { len: bytes.len(), bytes: Some(bytes) }
            }
            kind::RECEIVED => {
                let len = take_len(rest)?;
                take_array::<4>(rest)?;
                What::Received { len, bytes: None }
            }
            kind::SENT => {
                let len = take_len(rest)?;
                What::Sent { len, digest: u32::from_le_bytes(take_array(rest)?) }
            }
            kind::FINISHED => match take_byte(rest)? {
                0 => What::Finished { is_reset: false },
                1 => What::Finished { is_reset: true },
                _ => return Err(wrong),
            },
            kind::EOF => What::Event(Event::Eof),
            kind::READ_ERROR => What::Event(Event::Error(Direction::Read, take_error(rest)?)),
            kind::WRITE_ERROR => What::Event(Event::Error(Direction::Write, take_error(rest)?)),
            kind::TIMEOUT => What::Event(Event::Timeout { unacknowledged: take_len(rest)? }),
            kind::SHUT_DOWN => What::Event(Event::ShutDown),
            kind::SHARED => What::Shared,
            kind::NOTE => What::Note(take_bytes(rest)?),
            _ => return Err(wrong),
        };
        self.now = at;
        Ok(Record::Step(Step { offset, at, side, what, outside: &[] }))
    }
}

fn take_end<'a>(rest: &mut &'a [u8]) -> Result<End<'a>, ReadErrorKind> {
    let wrong = ReadErrorKind::WrongRecord;
    let ended = ended_of_code(take_byte(rest)?).ok_or(wrong.clone())?;
    let mut output = [(0, 0); 2];
    for (len, digest) in &mut output {
        *len = take_number(rest)?;
        *digest = u64::from_le_bytes(take_array(rest)?);
    }
    let label = str::from_utf8(take_bytes(rest)?).map_err(|_| wrong.clone())?;
    let text = str::from_utf8(take_bytes(rest)?).map_err(|_| wrong)?;
    Ok(End { ended, output, label, text })
}
