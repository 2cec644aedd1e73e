//! The times in the texts of reasons and errors, which are in logs and replies.

use std::{fmt::Display, time::Duration};

use wirestate_command_line::load::LoadReason;
use wirestate_core::{
    Fault, coroutine, echo, fanout, message, proxy, proxy_protocol::ProxyHeaderReason,
    quantity::Time, status::StatusReason,
};
use wirestate_tls::Failure;

/// The texts of all reasons that have a time, with this time.
fn texts(limit: Duration) -> Vec<String> {
    let (fault, received, expected, has_header) = (Fault::Time, 3, 7, true);
    let reasons: [&dyn Display; 20] = [
        &StatusReason::IdleTimeout { limit, fault },
        &StatusReason::Evicted { waited: limit, limit: 7 },
        &StatusReason::FrameTimeout { received, expected, has_header, limit },
        &StatusReason::ServiceTimeout { limit, unanswered: 3 },
        &StatusReason::WriteStalled { limit, unacknowledged: 3 },
        &message::ClientReason::ReplyTimeout { limit },
        &message::ClientReason::FrameTimeout { received, expected, has_header, limit },
        &message::ClientReason::WriteStalled { limit, unacknowledged: 3 },
        &echo::EchoReason::IdleTimeout { limit, unsent: 3 },
        &echo::ClientReason::NoReply { limit },
        &fanout::MessageSourceReason::WriteStalled { limit, unsent: 3 },
        &fanout::SubscriberReason::WriteStalled { limit, lag: 3 },
        &fanout::UpstreamReason::IdleTimeout { limit, tail: 3 },
        &coroutine::CoroutineReason::<coroutine::Error>::WriteStalled { limit, unacknowledged: 3 },
        &coroutine::Error::ReadTimeout { limit },
        &proxy::ProxyReason::IdleTimeout { limit, to_client: 3, to_upstream: 3 },
        &ProxyHeaderReason::Late { limit, received: 3 },
        &LoadReason::IdleTimeout { limit, sent: 3, received },
        &Failure::HandshakeTimeout { limit, received },
        &Failure::WriteStalled { limit, pending: 3 },
    ];
    reasons.iter().map(ToString::to_string).collect()
}

#[test]
fn every_time_has_the_form_that_flags_accept() {
    for (limit, expected) in [
        (Duration::ZERO, "0s"),
        (Duration::from_nanos(34), "34ns"),
        (Duration::from_nanos(1_999_998_729), "2s"),
        (Duration::from_secs(600), "10m"),
        (Duration::MAX, "213503982334601d 7h 15s"),
    ] {
        assert_eq!(Time(limit).to_string(), expected);
        for text in texts(limit) {
            let words = format!(" {text} ").replace([';', ','], " ");
            assert!(words.contains(&format!(" {expected} ")), "{limit:?}: {text}");
        }
    }
}
