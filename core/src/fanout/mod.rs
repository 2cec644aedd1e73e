//! Fan-out: one upstream to all who connect.
//!
//! - [`Upstream`] reads messages from the one server that has them, and publishes them to a
//!   [`Feed`].
//! - [`Subscriber`] sends them to one of those who have connected; whoever joins late starts with
//!   the next message, or with the last few.
//! - [`Source`] is a server of fixed-size messages at a rate, [`Receiver`] a client.
//!
//! Memory is the window and a place in it for each subscriber, however slow they are: nobody has a
//! queue. A subscriber's backlog goes out in one vectored write of up to 64 chunks, which is what
//! makes a delivery cheap.
//!
//! ```
//! use std::task::{Context, Waker};
//! use wirestate_core::{Instant, Machine, drive, fanout::{Config, Feed, Framing, Subscriber, Upstream}};
//!
//! let framing = Framing::Fixed(4.try_into()?);
//! let feed = Feed::new(Config { framing, ..Config::default() });
//! let now = Instant::EPOCH;
//! let mut cx = Context::from_waker(Waker::noop());
//!
//! let mut upstream = Upstream::new(feed.clone(), None, now);
//! let mut subscriber = Subscriber::new(&feed, now);
//! upstream.poll_shared(now, &mut cx); // the feed grants room for one read
//! drive::deliver(&mut upstream, &mut &b"one.two.thr"[..], now);
//!
//! subscriber.poll_shared(now, &mut cx);
//! let mut output = [0; 64];
//! let n = drive::collect_into(&mut subscriber, &mut output, now);
//! assert_eq!(&output[..n], b"one.two."); // whole messages only
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod allowance;
mod discard;
mod feed;
mod framing;
mod log;
mod receiver;
mod source;
mod subscriber;
mod upstream;

pub use self::{
    feed::{Capacity, Config, Counters, Feed, LATENCY_BOUNDS, LagPolicy},
    framing::{Framing, TooLong, Whole},
    log::{Chunk, Log},
    receiver::{Receiver, ReceiverReason},
    source::{Source, SourceConfig, SourceReason},
    subscriber::{Subscriber, SubscriberReason},
    upstream::{Upstream, UpstreamReason},
};
