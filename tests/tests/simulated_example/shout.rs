use wirestate_core::{
    ConnectionError, Event, Fault, Instant, Interest, Machine, Outbound, Reason, drive,
};

struct Shout {
    buffer: [u8; 64],
    start: usize,
    end: usize,
    closing: bool,
    reason: Option<ShoutReason>,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
enum ShoutReason {
    #[error("all input is answered")]
    Finished,
    #[error("lost: {0}")]
    Lost(ConnectionError),
}
impl Reason for ShoutReason {
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

impl Machine for Shout {
    type Reason = ShoutReason;
    fn interest(&self) -> Interest {
        let write = match () {
            () if self.reason.is_some() => Outbound::Finished,
            () if self.start < self.end => Outbound::Flush,
            () if self.closing => Outbound::Finish,
            () => Outbound::Idle,
        };
        Interest { read: write == Outbound::Idle, write }
    }
    fn read_buf(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        out[0] = &self.buffer[self.start..self.end];
        1
    }
    fn handle(&mut self, _now: Instant, event: Event) {
        match event {
            Event::Read(n) => {
                self.buffer[..n].make_ascii_uppercase();
                (self.start, self.end) = (0, n);
            }
            Event::Written(n) => self.start += n,
            Event::Eof | Event::ShutDown => self.closing = true,
            Event::Error(_, error) => {
                self.reason.get_or_insert(ShoutReason::Lost(error));
            }
            Event::Finished => {
                self.reason.get_or_insert(ShoutReason::Finished);
            }
            Event::Timeout { .. } | Event::Release => {}
        }
    }
    fn reason(&self) -> Option<ShoutReason> {
        self.reason.clone()
    }
}
