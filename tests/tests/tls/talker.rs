//! An inner machine that sends, receives, and notes both.

use bytes::Bytes;
use wirestate_core::{ConnectionError, Event, Fault, Instant, Interest, Machine, Outbound, Reason};

/// Sends `output`, and receives at the same time.
#[derive(Debug, Default)]
pub(crate) struct Talker {
    pub(crate) output: Vec<u8>,
    pub(crate) received: Vec<u8>,
    /// The ends that it was told, in order.
    pub(crate) ends: Vec<Event>,
    /// The most bytes of an offer; 0: 40,000.
    pub(crate) most: usize,
    /// It does not read.
    pub(crate) is_paused: bool,
    /// It sends a FIN after the output.
    pub(crate) closes: bool,
    reason: Option<Talked>,
    buffer: Vec<u8>,
}

/// Why a [`Talker`] has ended.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Talked {
    #[error("both have sent a FIN")]
    Finished,
    #[error("lost: {0}")]
    Lost(ConnectionError),
}

impl Reason for Talked {
    fn label(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Lost(error) => error.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Finished => Fault::None,
            Self::Lost(_) => Fault::Lost,
        }
    }
}

impl Talker {
    /// Sends `output`, then a FIN.
    pub(crate) fn sending(output: impl Into<Vec<u8>>) -> Self {
        Self { output: output.into(), closes: true, ..Self::default() }
    }

    /// This machine, which does not read.
    pub(crate) fn paused(self) -> Self {
        Self { is_paused: true, ..self }
    }

    fn has(&self, end: Event) -> bool {
        self.ends.contains(&end)
    }
}

impl Machine for Talker {
    type Reason = Talked;

    fn interest(&self) -> Interest {
        let read = !self.is_paused && !self.has(Event::Eof);
        let write = match () {
            () if self.reason.is_some() => return Interest::DONE,
            () if self.has(Event::Finished) && self.is_paused => Outbound::Idle,
            () if self.has(Event::Finished) => Outbound::Finished,
            () if !self.output.is_empty() => Outbound::Flush,
            () if self.closes => Outbound::Finish,
            () => Outbound::Idle,
        };
        Interest { read, write }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.buffer.resize(1000, 0);
        &mut self.buffer
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let most = if self.most == 0 { 40_000 } else { self.most };
        out[0] = &self.output[..self.output.len().min(most)];
        usize::from(!self.output.is_empty())
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        out[0] = Bytes::copy_from_slice(&self.output[..self.output.len().min(max)]);
        usize::from(!self.output.is_empty())
    }

    fn handle(&mut self, _now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.received.extend(&self.buffer[..n]),
            Event::Written(n) => drop(self.output.drain(..n)),
            Event::Eof | Event::Finished => self.ends.push(event),
            Event::Error(_, error) => {
                self.ends.push(event);
                self.reason.get_or_insert(Talked::Lost(error));
            }
            Event::ShutDown => self.closes = true,
            Event::Timeout { .. } | Event::Release => {}
        }
        if self.has(Event::Eof) && self.has(Event::Finished) {
            self.reason.get_or_insert(Talked::Finished);
        }
    }

    fn reason(&self) -> Option<Talked> {
        self.reason.clone()
    }
}
