//! A machine that wraps a client, and makes visible in its output what the client receives.

use std::task::Context;

use bytes::Bytes;
use wirestate_core::{
    Event, Instant, Interest, Machine, Status,
    nats::{Client, ClientReason, Config, Incoming, Publish, SendError, Subscription},
};

/// Subscribes to everything, and publishes what it receives. Each tenth message is followed by a
/// request, and each sixteenth by a flush.
#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) client: Client,
    /// What is to be published next.
    text: Option<Vec<u8>>,
    pub(crate) subscription: Option<Subscription>,
    count: u64,
    /// Everything that was taken, as text.
    pub(crate) taken: Vec<String>,
}

impl Echo {
    pub(crate) fn new(config: Config, now: Instant) -> Self {
        let client = Client::new(config, now).unwrap();
        Self { client, text: None, subscription: None, count: 0, taken: Vec::new() }
    }

    fn pump(&mut self, now: Instant) {
        loop {
            if let Some(text) = &self.text {
                let text = &text[..text.len().min(100)];
                match self.client.publish(&Publish::new("echo", text.to_vec()), now) {
                    Err(SendError::Full { .. }) => return,
                    // An ended client still has what came before its end.
                    Ok(()) | Err(SendError::Ended(_) | SendError::NotConnected) => {}
                    Err(error) => panic!("{error}"),
                }
                self.text = None;
                self.count += 1;
                if self.count.is_multiple_of(10) {
                    let _ = self.client.request(&Publish::new("ask", "?"), now);
                }
                if self.count.is_multiple_of(16) {
                    let _ = self.client.flush(now);
                }
            }
            let Some(incoming) = self.client.take_incoming(now) else { return };
            if matches!(incoming, Incoming::Connected) {
                // It fails if the connection has ended behind this.
                self.subscription = self.client.subscribe(">", None, now).ok();
            }
            let text = describe(&incoming);
            self.text = Some(text.clone().into_bytes());
            self.taken.push(text);
        }
    }
}

/// What was received, as text.
pub(crate) fn describe(incoming: &Incoming) -> String {
    match incoming {
        Incoming::Message(message) => format!(
            "message {} to {} reply {:?} headers {:?} payload {}",
            message.subscription().id(),
            message.subject(),
            message.reply(),
            message.headers().map(|headers| headers.iter().count()),
            message.payload().escape_ascii(),
        ),
        Incoming::Reply { request, reply } => match reply {
            Ok(message) => format!("{request:?} {}", message.payload().escape_ascii()),
            Err(error) => format!("{request:?} {error}"),
        },
        Incoming::Connected
        | Incoming::Flushed(_)
        | Incoming::Servers
        | Incoming::LameDuck
        | Incoming::Error(_) => format!("{incoming:?}"),
    }
}

impl Machine for Echo {
    type Reason = ClientReason;

    fn interest(&self) -> Interest {
        self.client.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.client.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.client.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.client.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.client.handle(now, event);
        if event != Event::Release {
            self.pump(now);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.client.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let has_changed = self.client.poll_shared(now, cx);
        if has_changed {
            self.pump(now);
        }
        has_changed
    }

    fn work(&self) -> u64 {
        self.client.work()
    }

    fn status(&self) -> Status {
        self.client.status()
    }

    fn reason(&self) -> Option<ClientReason> {
        self.client.reason()
    }
}
