use wirestate_core::{
    ConnectionError, Event, Fault, Instant, Interest, Machine, Outbound, Reason, drive,
};

struct Shout { buffer: [u8; 64], start: usize, end: usize, closing: bool, over: Option<Over> }

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
enum Over {
    #[error("all answered")]
    Finished,
    #[error("lost: {0}")]
    Lost(ConnectionError),
}
impl Reason for Over {
    fn label(&self) -> &'static str {
        match self { Over::Finished => "finished", Over::Lost(why) => why.label() }
    }
    fn fault(&self) -> Fault {
        match self { Over::Finished => Fault::None, Over::Lost(_) => Fault::Lost }
    }
}

impl Machine for Shout {
    type Reason = Over;
    fn interest(&self) -> Interest {
        let write = match () {
            () if self.over.is_some() => Outbound::Finished,
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
            Event::Error(_, why) => { self.over.get_or_insert(Over::Lost(why)); }
            Event::Finished => { self.over.get_or_insert(Over::Finished); }
            Event::Timeout { .. } | Event::Release => {}
        }
    }
    fn reason(&self) -> Option<Over> {
        self.over.clone()
    }
}
