//! A lease: a key with an age in a bucket, which one of several processes holds.

mod config;
mod event;
#[cfg(test)]
mod tests;

use alloc::{collections::VecDeque, format, string::String};
use core::time::Duration;

use bytes::Bytes;

use super::{ApiError, ApiReply, ApiRequest, EnsureStream, ErrorCode, PublishAck, StoredMessage};
use crate::{
    ConfigError, Instant,
    dial::Backoff,
    nats::{Client, HeaderBlock, Incoming, Message, Publish, RequestError, RequestId, SendError},
};

pub use self::{
    config::LeaseConfig,
    event::{LeaseEvent, LeaseLost, LeaseProblem},
};

/// A lease that at most one of several processes holds: the key `lease` in a key-value bucket
/// ([ADR-8](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-8.md)).
///
/// The holder writes its name to the key, and again after each third of the bucket's age. The
/// server removes a key that is older: then the lease of a dead holder is free. A standby reads the
/// key about once a second (a tenth of the age). Each write expects the sequence of the last one,
/// and gets a higher one, the *revision*.
///
/// A lease alone excludes nobody: a holder that was stopped for a minute may go on until it looks
/// at its clock. So each acquisition gives an *epoch*, the revision, for what the holder writes
/// elsewhere: a later holder has a higher one ([`Publisher`](super::Publisher)).
///
/// In a bucket that was made anew, revisions begin at 1. Then an offset is added: the epochs of one
/// lease ascend, and [`renew`](Self::renew) exceeds an epoch that was found elsewhere. The first
/// epoch of another process is only the revision: it may be one that the earlier bucket has given.
///
/// The lease is wanted from the first connection on, also after it was lost, until
/// [`release`](Self::release). Call [`pump`](Self::pump) in each turn of the driver, and take the
/// [events](Self::take_event) after each call.
///
/// It holds a few names, one request, and the events that were not taken.
#[derive(Debug)]
pub struct Lease {
    bucket: EnsureStream,
    key: String,
    /// What the key has while this process holds the lease. No other process has the same.
    value: Bytes,
    /// The age of a key in the bucket.
    ttl: Duration,
    random: Backoff,
    step: Step,
    /// When the reply to the request is late.
    reply_due: Instant,
    held: Option<Held>,
    /// The last epoch, which the next one exceeds; 0 before the first one.
    epoch: u64,
    /// The epochs are the revisions plus this.
    offset: u64,
    /// A renewal that has to be written, and the epoch that it must exceed.
    requested: Option<u64>,
    is_releasing: bool,
    /// The holder that was reported last.
    taken_by: Option<String>,
    events: VecDeque<LeaseEvent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    revision: u64,
    /// When the server may remove the key.
    expires: Instant,
}

/// What a lease does next, or waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// There is no connection, or the lease was released.
    Idle,
    Wait {
        until: Instant,
        next: Next,
    },
    Find,
    Finding,
    Read,
    Reading(RequestId),
    /// Writes the key, whose last revision is `expected`.
    Write {
        expected: u64,
    },
    Writing(Write),
    Holding {
        renew: Instant,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Find,
    Read,
}

/// A write of the key that has no reply yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Write {
    request: RequestId,
    expected: u64,
    sent: Instant,
    /// It is the renewal of [`Lease::renew`], with the epoch that it must exceed.
    requested: Option<u64>,
    is_release: bool,
}

impl Lease {
    /// A lease that waits for its first connection.
    ///
    /// `seed` must differ between processes: it tells those of one name apart, and the times at
    /// which a standby reads the key are taken from it.
    ///
    /// # Errors
    /// [`LeaseConfig::ttl`] is below 1 s.
    pub fn new(config: &LeaseConfig, seed: u64) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            bucket: EnsureStream::new(config.stream(), true),
            key: config.key(),
            value: format!("{} {seed:016x}", config.holder).into(),
            ttl: config.ttl,
            random: Backoff::new(seed),
            step: Step::Idle,
            reply_due: Instant::NEVER,
            held: None,
            epoch: 0,
            offset: 0,
            requested: None,
            is_releasing: false,
            taken_by: None,
            events: VecDeque::new(),
        })
    }

    /// Starts on a new connection. A request on the last one is forgotten.
    pub fn connected(&mut self, client: &mut Client, now: Instant) {
        self.disconnected();
        if !self.is_releasing {
            self.step = Step::Find;
        }
        self.pump(client, now);
    }

    /// Forgets the request on a connection that has ended. The lease is held until it expires.
    pub fn disconnected(&mut self) {
        self.forget_request();
        if self.is_releasing && self.step != Step::Idle {
            return self.finish_release();
        }
        self.step = Step::Idle;
    }

    /// The epoch, while the lease is held.
    pub fn epoch(&self, now: Instant) -> Option<u64> {
        let held = self.held.filter(|held| now < held.expires && !self.is_releasing);
        held.map(|_| self.epoch)
    }

    /// Renews the lease now, for a new epoch that is higher than the present one and than `above`.
    /// The answer is [`LeaseEvent::Renewed`], or [`LeaseEvent::Lost`]. Without a held lease, it has
    /// no effect.
    ///
    /// `above` is an epoch that was found where only lower ones should be
    /// ([`EpochEnd::HigherEpoch`](super::EpochEnd::HigherEpoch)), or 0. A renewal that succeeds
    /// proves that no other process has held the lease since this one acquired it.
    pub fn renew(&mut self, above: u64) {
        let Some(Held { revision, .. }) = self.held else { return };
        self.requested = self.requested.max(Some(above));
        if matches!(self.step, Step::Holding { .. }) {
            self.step = Step::Write { expected: revision };
        }
    }

    /// Gives the lease up, so that a standby need not wait for its age. From now on it is not held.
    ///
    /// The answer is [`LeaseEvent::Released`]: at once without a connection, and at the latest when
    /// the lease would expire.
    pub fn release(&mut self) {
        if core::mem::replace(&mut self.is_releasing, true) {
            return;
        }
        match (&self.step, self.held) {
            (Step::Holding { .. }, Some(Held { revision, .. })) => {
                self.step = Step::Write { expected: revision };
            }
            (Step::Idle, _) => self.finish_release(),
            // `pump` gives it up, once it is known what the key has.
            (_, _) => {}
        }
    }

    /// Sends what has to be sent, as far as the client has room. Call it in each turn of the
    /// driver, and after each method that has no client.
    pub fn pump(&mut self, client: &mut Client, now: Instant) {
        // A write that has no reply may acquire the lease.
        let is_writing = matches!(self.step, Step::Idle | Step::Writing(_));
        if self.is_releasing && self.held.is_none() && !is_writing {
            self.finish_release();
        }
        let sent = match self.step {
            Step::Find => self.bucket.send(client, now).map(|()| Step::Finding),
            Step::Read => {
                let name = &self.bucket.config().name;
                ApiRequest::last_message(name, &self.key).send(client, now).map(Step::Reading)
            }
            Step::Write { expected } => self.write(expected, client, now).map(Step::Writing),
            Step::Idle
            | Step::Wait { .. }
            | Step::Finding
            | Step::Reading(_)
            | Step::Writing(_)
            | Step::Holding { .. } => return,
        };
        match sent {
            Ok(step) => {
                self.step = step;
                self.reply_due = now + self.reply_limit();
            }
            Err(error) if error.is_temporary() => {}
            Err(error) => self.fail(LeaseProblem::Send(error), now),
        }
    }

    fn write(
        &mut self,
        expected: u64,
        client: &mut Client,
        now: Instant,
    ) -> Result<Write, SendError> {
        let is_release = self.is_releasing;
        let mut headers = HeaderBlock::new();
        headers.push("Nats-Expected-Last-Subject-Sequence", expected).expect(VALID);
        if is_release {
            headers.push("KV-Operation", "PURGE").expect(VALID);
        }
        let payload = if is_release { Bytes::new() } else { self.value.clone() };
        let message = Publish::new(&self.key, payload).with_headers(&headers);
        let request = client.request(&message, now)?;
        let requested = self.requested.take();
        Ok(Write { request, expected, sent: now, requested, is_release })
    }

    /// Handles what the client has received. Returns what is not for this lease.
    pub fn handle(
        &mut self,
        client: &mut Client,
        incoming: Incoming,
        now: Instant,
    ) -> Option<Incoming> {
        let Incoming::Reply { request, reply } = incoming else { return Some(incoming) };
        if !self.handle_reply(client, request, &reply, now) {
            return Some(Incoming::Reply { request, reply });
        }
        self.pump(client, now);
        None
    }

    /// Returns whether it was a request of this lease.
    fn handle_reply(
        &mut self,
        client: &mut Client,
        request: RequestId,
        reply: &Result<Message, RequestError>,
        now: Instant,
    ) -> bool {
        match self.step {
            Step::Finding => match self.bucket.handle(client, request, reply, now) {
                Some(Ok(found)) => {
                    if found.is_new {
                        self.events.push_back(LeaseEvent::BucketCreated);
                    }
                    let config = found.info.config;
                    match config.max_age {
                        None => self.fail(LeaseProblem::NoAge { stream: config.name }, now),
                        Some(ttl) => {
                            self.ttl = ttl;
                            self.step = Step::Read;
                        }
                    }
                }
                Some(Err(error)) => self.fail(LeaseProblem::Bucket(error), now),
                None => return false,
            },
            Step::Reading(own) if own == request => self.handle_key(ApiReply::of(reply), now),
            Step::Writing(write) if write.request == request => {
                let ack = match reply {
                    Ok(message) => PublishAck::parse(message.payload()).map(|ack| ack.sequence),
                    Err(error) => Err(ApiError::NoReply(*error)),
                };
                self.handle_ack(write, ack, now);
            }
            Step::Idle
            | Step::Wait { .. }
            | Step::Find
            | Step::Read
            | Step::Reading(_)
            | Step::Write { .. }
            | Step::Writing(_)
            | Step::Holding { .. } => return false,
        }
        true
    }

    fn handle_key(&mut self, key: Result<StoredMessage, ApiError>, now: Instant) {
        let (expected, holder) = match key {
            // This process has written it, and may have lost the acknowledgement.
            Ok(key) if key.payload == self.value => {
                self.step = Step::Write { expected: key.sequence };
                return;
            }
            Ok(key) if is_marker(&key) => (key.sequence, None),
            Ok(key) => (key.sequence, Some(holder_of(&key.payload))),
            Err(error) if error.code() == Some(ErrorCode::MESSAGE_NOT_FOUND) => (0, None),
            Err(error) => return self.fail(LeaseProblem::Read(error), now),
        };
        match (self.held, holder) {
            (Some(_), Some(holder)) => self.lose(LeaseLost::Taken { holder }, now),
            (Some(_), None) => self.lose(LeaseLost::Removed, now),
            (None, None) => self.step = Step::Write { expected },
            (None, Some(holder)) => {
                if self.taken_by.as_ref() != Some(&holder) {
                    self.taken_by = Some(holder.clone());
                    self.events.push_back(LeaseEvent::Taken { holder });
                }
                self.wait(Next::Read, now);
            }
        }
    }

    fn handle_ack(&mut self, write: Write, ack: Result<u64, ApiError>, now: Instant) {
        let Write { expected, .. } = write;
        match ack {
            Ok(_) if write.is_release => self.finish_release(),
            Ok(revision) if revision > expected => self.handle_written(write, revision, now),
            Ok(found) => self.fail(LeaseProblem::Acknowledgement { found, expected }, now),
            // Another process was faster, or this one on its last connection.
            Err(error) if error.code() == Some(ErrorCode::WRONG_LAST_SEQUENCE) => {
                self.wait(Next::Read, now);
            }
            Err(error) => self.fail(LeaseProblem::Write(error), now),
        }
    }

    fn handle_written(&mut self, write: Write, revision: u64, now: Instant) {
        let expires = write.sent + self.ttl;
        if expires <= now {
            // The process was stopped meanwhile, and another one may have the key by now.
            return self.wait(Next::Read, now);
        }
        if self.held.is_none() || write.requested.is_some() {
            let above = self.epoch.max(write.requested.unwrap_or(0));
            if revision.saturating_add(self.offset) <= above {
                self.offset = above;
            }
            self.epoch = revision.saturating_add(self.offset);
        }
        let epoch = self.epoch;
        if self.held.is_none() && !self.is_releasing {
            self.events.push_back(LeaseEvent::Acquired { epoch });
        } else if write.requested.is_some() {
            self.events.push_back(LeaseEvent::Renewed { epoch });
        }
        self.taken_by = None;
        self.held = Some(Held { revision, expires });
        self.step = if self.is_releasing || self.requested.is_some() {
            Step::Write { expected: revision }
        } else {
            Step::Holding { renew: write.sent + self.ttl / 3 }
        };
    }

    /// Removes and returns the next event. Take all of them after each other method.
    pub fn take_event(&mut self) -> Option<LeaseEvent> {
        self.events.pop_front()
    }

    /// The next time at which [`handle_timeout`](Self::handle_timeout) has something to do, with or
    /// without a connection.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let step = match self.step {
            Step::Wait { until, .. } | Step::Holding { renew: until } => Some(until),
            Step::Finding | Step::Reading(_) | Step::Writing(_) => Some(self.reply_due),
            Step::Idle | Step::Find | Step::Read | Step::Write { .. } => None,
        };
        let expires = self.held.map(|held| held.expires);
        step.into_iter().chain(expires).min()
    }

    /// Handles a deadline of [`poll_timeout`](Self::poll_timeout) that may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.held.is_some_and(|held| held.expires <= now) {
            return self.lose(LeaseLost::Expired { ttl: self.ttl }, now);
        }
        match self.step {
            Step::Wait { until, next } if until <= now => {
                self.step = match next {
                    Next::Find => Step::Find,
                    Next::Read => Step::Read,
                };
            }
            Step::Holding { renew } if renew <= now => {
                let expected = self.held.map_or(0, |held| held.revision);
                self.step = Step::Write { expected };
            }
            Step::Finding | Step::Reading(_) | Step::Writing(_) if self.reply_due <= now => {
                self.fail(LeaseProblem::NoReply { limit: self.reply_limit() }, now);
            }
            Step::Idle
            | Step::Wait { .. }
            | Step::Find
            | Step::Finding
            | Step::Read
            | Step::Reading(_)
            | Step::Write { .. }
            | Step::Writing(_)
            | Step::Holding { .. } => {}
        }
    }

    fn fail(&mut self, problem: LeaseProblem, now: Instant) {
        self.events.push_back(LeaseEvent::Waiting(problem));
        self.wait(Next::Find, now);
    }

    fn lose(&mut self, reason: LeaseLost, now: Instant) {
        let is_connected = self.step != Step::Idle;
        self.events.push_back(LeaseEvent::Lost(reason));
        self.forget_request();
        self.held = None;
        self.requested = None;
        if self.is_releasing {
            self.finish_release();
        } else if is_connected {
            self.wait(Next::Read, now);
        }
    }

    fn finish_release(&mut self) {
        self.forget_request();
        self.held = None;
        self.step = Step::Idle;
        self.events.push_back(LeaseEvent::Released);
    }

    /// Waits for about a tenth of the bucket's age.
    fn wait(&mut self, next: Next, now: Instant) {
        self.forget_request();
        let range = usize::try_from(self.ttl.as_micros() / 10).unwrap_or(usize::MAX);
        let jitter = Duration::from_micros(self.random.below(range) as u64);
        self.step = Step::Wait { until: now + self.ttl / 20 + jitter, next };
    }

    /// Forgets a request, whose reply is unknown. A renewal that was requested is written again.
    fn forget_request(&mut self) {
        self.bucket.forget();
        if let Step::Writing(Write { requested, .. }) = self.step {
            self.requested = self.requested.max(requested);
        }
    }

    fn reply_limit(&self) -> Duration {
        self.ttl / 3
    }
}

/// Whether a key was removed: its last message only says so.
fn is_marker(key: &StoredMessage) -> bool {
    key.headers().is_ok_and(|headers| headers.get("KV-Operation").is_some())
}

/// The name in a key, for people: at most its first 128 bytes, with escapes.
fn holder_of(value: &[u8]) -> String {
    value.iter().take(128).flat_map(|byte| byte.escape_ascii()).map(char::from).collect()
}

const VALID: &str = "the name and the value are valid";
