//! Any orders, cut in any way, against a model.

use std::time::Duration;

use proptest::prelude::*;
use wirestate_core::{
    Instant,
    protocol::{FrameTimeouts, HIGH_WATER_MARK, Server},
};
use wirestate_testkit::{contract::Checked, script::Check};

use crate::{Orders, small};

#[test]
fn the_replies_are_those_of_the_model_and_an_active_peer_is_not_timed_out() {
    let orders = prop_oneof![
        16 => "[a-z]{0,20}".prop_map(|text| format!("say {text}\n")),
        8 => "[a-z\n]{0,50}".prop_map(|bytes| format!("raw {}\n{bytes}", bytes.len())),
        8 => (MAX_REPLY / 2..=MAX_REPLY).prop_map(|n| format!("big {n}\n")),
        2 => Just("big 0\n".to_owned()), // no reply
        1 => Just("bye\n".to_owned()),
        1 => "[x-z]{1,9}\n",
    ];
    // Equal timeouts: each of them is short enough to be noticed if it does not move.
    let config = small().with_idle_timeout(TIMEOUT).with_write_timeout(TIMEOUT);
    let timeouts = FrameTimeouts::default().with_header(TIMEOUT).with_content(TIMEOUT);
    let server = Server::new(config.with_frame_timeouts(timeouts)).unwrap();
    let machine = || {
        let machine = server.machine(Orders::default(), Instant::EPOCH);
        Checked::new(machine, HIGH_WATER_MARK + MAX_REPLY).with_deadlines()
    };
    let check = Check::new().with_cases(64).with_pauses(TIMEOUT);
    check.run(machine, orders, |orders| {
        let mut replies = String::new();
        for order in orders {
            let line = order.lines().next().unwrap();
            let (name, argument) = line.split_once(' ').unwrap_or((line, ""));
            match name {
                "say" | "raw" => replies.extend([argument, "\n"]),
                "big" => replies.extend(vec!["."; argument.parse().unwrap()]),
                "bye" => return (replies + "bye\n").into_bytes(),
                _ => return (replies + "error: an unknown order\n").into_bytes(),
            }
        }
        replies.into_bytes()
    });
}

const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest reply. A few of them fill the output.
const MAX_REPLY: usize = 30_000;
