//! The encoder of a recording.

use alloc::{
    boxed::Box,
    string::{String, ToString},
    vec::Vec,
};
use core::{fmt, mem};

use super::{
    Digest, Header,
    format::{self, LATER, SECOND, kind, put_bytes, put_number},
};
use crate::{Event, Fault, Instant, Machine, Outbound, Reason, machine::MAX_SLICES};

/// Takes the blocks of one recording, for example to write them to a file.
///
/// The driver of the connection calls it, so it must not block.
pub trait BlockSink: fmt::Debug + Send {
    /// Takes the next block.
    ///
    /// # Errors
    /// It is not taken. The recording stops, and says why.
    fn write(&mut self, block: Vec<u8>) -> Result<(), Stop>;

    /// Takes the last block, of less than 1 KiB and the text of the reason more than a block of
    /// [`write`](Self::write), and how the session has ended.
    fn end(&mut self, block: Vec<u8>, ended: Ended);
}

/// Why a recording stops before its session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The limit of one recording is reached.
    #[error("the limit of a recording is reached")]
    Limit,
    /// The limit of all recordings is reached.
    #[error("the limit of all recordings is reached")]
    TotalLimit,
    /// Blocks come faster than they are written.
    #[error("the disk is too slow")]
    Slow,
    /// A block cannot be written.
    #[error("the file cannot be written")]
    Failed,
}

impl Stop {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::Limit, Self::TotalLimit, Self::Slow, Self::Failed];

    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::TotalLimit => "total_limit",
            Self::Slow => "slow",
            Self::Failed => "failed",
        }
    }
}

/// How a recorded session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The machine has ended, and its reason has this fault.
    Reason(Fault),
    /// The machine was dropped before, as an abort does.
    Dropped,
    /// A call of the machine has panicked.
    Panicked,
}

impl Ended {
    /// Whether it is an error: neither a clean end, nor one that was requested.
    pub fn is_error(self) -> bool {
        match self {
            Self::Reason(fault) => !matches!(fault, Fault::None | Fault::Requested),
            Self::Dropped => false,
            Self::Panicked => true,
        }
    }
}

/// Encodes what happens to a machine, and hands blocks to a sink.
///
/// It holds up to 72 KiB, or 64 KiB and the bytes of one read if that is more.
#[derive(Debug)]
pub struct Recorder {
    sink: Box<dyn BlockSink>,
    buffer: Vec<u8>,
    /// The time of the last record.
    at: Instant,
    has_payloads: bool,
    /// The output of each side.
    output: [Digest; 2],
    /// The call of the machine that has begun and not returned.
    call: Option<Call>,
    /// Set once nothing more is recorded.
    stopped: Option<Stop>,
    has_ended: bool,
}

/// A call of a machine.
#[derive(Clone, Copy, Debug)]
enum Call {
    /// It is recorded before it begins.
    Event,
    /// `poll_shared` is recorded afterwards, if it returned true.
    Shared(Instant),
}

impl Recorder {
    /// Begins a recording.
    pub fn new(header: &Header, sink: Box<dyn BlockSink>) -> Self {
        Self {
            sink,
            buffer: header.encode(),
            at: header.started_at,
            has_payloads: header.has_payloads,
            output: [Digest::default(); 2],
            call: None,
            stopped: None,
            has_ended: false,
        }
    }

    /// The time of the last record; at first, when the machine was made.
    pub fn now(&self) -> Instant {
        self.at
    }

    /// Records `event` of `machine`, which is a connection's only side or its first one (0), or
    /// its second one (1). Call it before the machine handles the event, and
    /// [`returned`](Self::returned) afterwards.
    pub fn event(&mut self, now: Instant, side: usize, machine: &mut impl Machine, event: Event) {
        if self.stopped.is_some() || event == Event::Release {
            return;
        }
        self.call = Some(Call::Event);
        match event {
            Event::Read(n) => {
                self.begin(now, side, kind::RECEIVED);
                put_number(&mut self.buffer, n as u64);
                // The second call returns the same memory, with its content.
                let received = &machine.read_buf()[..n];
                if self.has_payloads {
                    self.buffer.extend_from_slice(received);
                } else {
                    let mut digest = Digest::default();
                    digest.write(received);
                    self.buffer.extend_from_slice(&digest.short().to_le_bytes());
                }
            }
            Event::Eof => self.begin(now, side, kind::EOF),
            Event::Written(n) => {
                add_output(machine, n, |bytes| self.output[side].write(bytes));
                self.begin(now, side, kind::SENT);
                put_number(&mut self.buffer, n as u64);
                self.buffer.extend_from_slice(&self.output[side].short().to_le_bytes());
            }
            Event::Finished => {
                self.begin(now, side, kind::FINISHED);
                let is_reset = machine.interest().write == Outbound::Reset;
                self.buffer.push(u8::from(is_reset));
            }
            Event::Error(direction, error) => {
                self.begin(now, side, format::error_kind(direction));
                format::put_error(&mut self.buffer, error);
            }
            Event::Timeout { unacknowledged } => {
                self.begin(now, side, kind::TIMEOUT);
                put_number(&mut self.buffer, unacknowledged as u64);
            }
            Event::ShutDown => self.begin(now, side, kind::SHUT_DOWN),
            Event::Release => {}
        }
    }

    /// Records that `poll_shared` returned true.
    pub fn shared(&mut self, now: Instant) {
        if self.stopped.is_none() {
            self.begin(now, 0, kind::SHARED);
        }
    }

    /// Records that another method of the machine is called, which `note` describes. Call
    /// [`returned`](Self::returned) afterwards.
    pub fn note(&mut self, now: Instant, note: &[u8]) {
        if self.stopped.is_none() {
            self.call = Some(Call::Event);
            self.begin(now, 0, kind::NOTE);
            put_bytes(&mut self.buffer, note);
        }
    }

    /// Records that the call has returned, and what it has used from `outside`, if anything.
    pub fn returned(&mut self, outside: &[u8]) {
        self.call = None;
        if self.stopped.is_some() {
            return;
        }
        if !outside.is_empty() {
            self.buffer.push(kind::OUTSIDE);
            put_bytes(&mut self.buffer, outside);
        }
        if self.buffer.len() >= BLOCK {
            self.flush();
        }
    }

    /// Call it before `poll_shared`, so that a panic in it is recorded.
    pub(super) fn polling(&mut self, now: Instant) {
        self.call = Some(Call::Shared(now));
    }

    /// Whether a call of the machine has not returned. When the machine is dropped, that call has
    /// panicked.
    pub fn is_in_call(&self) -> bool {
        self.call.is_some()
    }

    /// Ends the recording. `reason` is the machine's, if it has ended.
    pub fn end(&mut self, reason: Option<&impl Reason>) {
        if mem::replace(&mut self.has_ended, true) {
            return;
        }
        if let Some(Call::Shared(now)) = self.call {
            self.shared(now);
        }
        let ended = match reason {
            _ if self.call.is_some() => Ended::Panicked,
            Some(reason) => Ended::Reason(reason.fault()),
            None => Ended::Dropped,
        };
        if let Some(stop) = self.stopped {
            self.buffer.extend([kind::STOPPED, stop_code(stop)]);
        }
        self.buffer.extend([kind::END, end_code(ended)]);
        for output in &self.output {
            put_number(&mut self.buffer, output.len());
            self.buffer.extend_from_slice(&output.value().to_le_bytes());
        }
        let (label, text) =
            reason.map_or(("", String::new()), |reason| (reason.label(), reason.to_string()));
        put_bytes(&mut self.buffer, label.as_bytes());
        put_bytes(&mut self.buffer, text.as_bytes());
        let block = self.take_block();
        self.sink.end(block, ended);
    }

    /// Begins a record.
    fn begin(&mut self, now: Instant, side: usize, kind: u8) {
        let side = if side == 0 { 0 } else { SECOND };
        if now > self.at {
            self.buffer.push(kind | side | LATER);
            put_number(&mut self.buffer, now.nanos() - self.at.nanos());
            self.at = now;
        } else {
            self.buffer.push(kind | side);
        }
    }

    fn flush(&mut self) {
        let block = self.take_block();
        if let Err(stop) = self.sink.write(block) {
            self.stopped = Some(stop);
            self.buffer = Vec::new();
        }
    }

    /// Takes the buffer, with its checksum.
    fn take_block(&mut self) -> Vec<u8> {
        let mut digest = Digest::default();
        digest.write(&self.buffer);
        self.buffer.push(kind::CHECKSUM);
        self.buffer.extend_from_slice(&digest.short().to_le_bytes());
        let next = if self.has_ended { Vec::new() } else { Vec::with_capacity(BLOCK + BLOCK / 8) };
        mem::replace(&mut self.buffer, next)
    }
}

/// Passes the first `n` bytes of the output of `machine` to `add`. Returns how many there were.
pub(super) fn add_output(machine: &impl Machine, n: usize, add: impl FnMut(&[u8])) -> usize {
    let mut few = [&[][..]; FEW_SLICES];
    let count = machine.write_bufs(&mut few);
    let offered: usize = few[..count].iter().map(|buf| buf.len()).sum();
    if count < FEW_SLICES || n <= offered {
        return add_first(&few[..count], n, add);
    }
    let mut many = [&[][..]; MAX_SLICES];
    let count = machine.write_bufs(&mut many);
    add_first(&many[..count], n, add)
}

fn add_first(bufs: &[&[u8]], n: usize, mut add: impl FnMut(&[u8])) -> usize {
    let mut rest = n;
    for buf in bufs {
        let len = buf.len().min(rest);
        add(&buf[..len]);
        rest -= len;
    }
    n - rest
}

pub(super) fn stop_code(stop: Stop) -> u8 {
    match stop {
        Stop::Limit => 0,
        Stop::TotalLimit => 1,
        Stop::Slow => 2,
        Stop::Failed => 3,
    }
}

/// The code of an end in the record [`kind::END`].
fn end_code(ended: Ended) -> u8 {
    match ended {
        Ended::Reason(Fault::None) => 0,
        Ended::Reason(Fault::Peer) => 1,
        Ended::Reason(Fault::Limit) => 2,
        Ended::Reason(Fault::Time) => 3,
        Ended::Reason(Fault::Requested) => 4,
        Ended::Reason(Fault::Lost) => 5,
        Ended::Reason(Fault::Bug) => 6,
        Ended::Dropped => 7,
        Ended::Panicked => 8,
    }
}

pub(super) fn ended_of_code(code: u8) -> Option<Ended> {
    Some(match code {
        0 => Ended::Reason(Fault::None),
        1 => Ended::Reason(Fault::Peer),
        2 => Ended::Reason(Fault::Limit),
        3 => Ended::Reason(Fault::Time),
        4 => Ended::Reason(Fault::Requested),
        5 => Ended::Reason(Fault::Lost),
        6 => Ended::Reason(Fault::Bug),
        7 => Ended::Dropped,
        8 => Ended::Panicked,
        _ => return None,
    })
}

/// A block is handed to the sink once it has this many bytes.
const BLOCK: usize = 64 * 1024;
/// Most machines write fewer slices than this.
const FEW_SLICES: usize = 4;
