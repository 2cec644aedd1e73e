//! Streams of a NATS server (`JetStream`), beside a [`Client`](super::Client).
//!
//! What is here are no machines: they send their requests by a client, and get what the client has
//! received. They keep their state when a connection ends, and go on with the client of the next
//! one.

mod api;
mod consumer;
mod lease;
mod message_id;
mod publisher;
mod stream;
#[cfg(test)]
mod wire;

pub use self::{
    api::{ApiError, ApiReply, ApiRequest, ErrorCode, PublishAck, Refusal, StoredMessage},
    consumer::{
        Consumer, ConsumerConfig, ConsumerError, ConsumerEvent, Delivery, GapKind, Start, StreamGap,
    },
    lease::{Lease, LeaseConfig, LeaseEvent, LeaseLost, LeaseProblem},
    message_id::{MESSAGE_ID, MessageId},
    publisher::{
        EpochEnd, MessageRefused, PublishError, Publisher, PublisherEvent, PublisherProblem,
    },
    stream::{
        Discard, EnsureStream, FoundStream, InvalidStreamName, Storage, StreamConfig, StreamError,
        StreamInfo, StreamState, check_stream_name, stream_name,
    },
};
