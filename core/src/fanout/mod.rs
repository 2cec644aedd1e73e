//! Fan-out: one stream of messages from an upstream to many subscribers.
//!
//! - [`Upstream`] receives messages from a server, and publishes them to a [`Feed`].
//! - [`Publisher`] receives messages from one of many clients, instead of an upstream.
//! - [`Subscriber`] sends them to one client, from the next message on, or from an earlier one
//!   ([`Config::replay`]).
//! - [`Client`] is the subscriber's side: it receives the messages.
//! - [`MessageSource`] can be the upstream's server: it sends numbered messages at a rate.
//!
//! A feed is a [`Log`] behind a lock. To publish without an upstream, call
//! [`Feed::poll_capacity`] and [`Feed::publish`]. To read without a subscriber's connection, join
//! as a [`Reader`].
//!
//! Where messages may be missing, an epoch begins: at each connection to the upstream after the
//! first, and where [`Feed::begin_epoch`] is called. [`Chunk::epoch`] numbers them, and
//! [`Config::on_gap`] decides what happens to subscribers.
//!
//! The feed holds a window of the newest messages, and a position in it for each subscriber. There
//! is no queue per subscriber, so a slow one uses no more memory than a fast one. The [`LagPolicy`]
//! decides what happens to a subscriber that falls out of the window. A subscriber that is behind
//! gets up to 64 chunks in one vectored write.
//!
//! ```
//! use std::task::{Context, Waker};
//! use wirestate_core::{
//!     Instant, Machine, drive,
//!     fanout::{self, Feed, Framing, Subscriber, Upstream},
//! };
//!
//! let framing = Framing::Fixed(4.try_into()?);
//! let feed = Feed::new(fanout::Config::default().with_framing(framing))?;
//! let now = Instant::EPOCH;
//! let mut cx = Context::from_waker(Waker::noop());
//!
//! let mut upstream = Upstream::new(&feed, now);
//! let mut subscriber = Subscriber::new(&feed, now);
//! upstream.poll_shared(now, &mut cx); // the feed grants capacity for one read
//! drive::deliver(&mut upstream, &mut &b"one.two.thr"[..], now);
//!
//! subscriber.poll_shared(now, &mut cx);
//! let mut output = [0; 64];
//! let n = drive::collect_into(&mut subscriber, &mut output, now);
//! assert_eq!(&output[..n], b"one.two."); // complete messages only
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod client;
mod config;
mod counters;
mod cursor;
mod discard;
mod feed;
mod framing;
mod log;
mod message_source;
#[cfg(feature = "nats")]
pub mod nats;
mod pause;
mod pause_budget;
mod publish_queue;
mod publisher;
mod reader;
mod replay;
mod state;
mod subscriber;
mod upstream;

pub use self::{
    client::{Client, ClientReason},
    config::{Config, GapPolicy, LagPolicy},
    counters::{Counters, LATENCY_BOUNDS},
    cursor::FetchOutcome,
    feed::Feed,
    framing::{Framing, MessageTooLong},
    log::{Chunk, Log},
    message_source::{MessageSource, MessageSourceConfig, MessageSourceReason},
    pause::Capacity,
    publisher::{Publisher, PublisherReason},
    reader::{Pace, Reader},
    subscriber::{Subscriber, SubscriberReason},
    upstream::{Upstream, UpstreamReason},
};
