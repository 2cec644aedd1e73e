//! One list of scenes over all programs that have the same task: the binaries, the simulator, the
//! event loops of the examples, and programs of others.
//!
//! Each peer of a scene performs acts, and notes the bytes that it receives and how its input ends.
//! These transcripts must be those that the scene expects, whatever program it plays with, except
//! for the [known] differences.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod check;
mod echo;
mod event_loops;
mod failing;
mod fanout;
mod known;
#[expect(dead_code, reason = "these tests use a part")]
#[path = "../event_loops/loops.rs"]
mod loops;
mod message;
#[expect(dead_code, reason = "these tests use a part")]
#[path = "../real_sockets/process.rs"]
mod process;
mod program;
#[expect(dead_code, reason = "these tests use a part")]
#[path = "../real_sockets/proxies.rs"]
mod proxies;
mod relay;
mod scene;
mod simulated;
mod sockets;

use self::check::check;

#[test]
fn echoes_conform() {
    check(&echo::scenes(), &echo::programs(), known::ECHO);
}

#[test]
fn relays_conform() {
    check(&relay::scenes(), &relay::programs(), known::RELAY);
}

#[test]
fn servers_of_messages_conform() {
    check(&message::scenes(), &message::programs(), &[]);
}

#[test]
fn fan_outs_conform() {
    // A feed keeps the lines of the scenes before.
    for scene in fanout::scenes() {
        check(&[scene], &fanout::programs(), &[]);
    }
}

#[test]
fn the_documentation_has_the_known_differences() {
    let page = include_str!("../../../docs/test-a-protocol.md");
    let table = known::table();
    assert!(page.contains(&table), "docs/test-a-protocol.md must have this table:\n{table}");
}
