//! A broker that wants a user and a password.

use crate::{
    broker::Broker,
    process::eventually,
    source::Source,
    subscribers::Subscribers,
    tiers::{SMOL, STD, TOKIO, edge, ingest, url},
};

#[test]
fn wrong_credentials_are_reported_and_tried_again_after_a_delay() {
    let Some(broker) = Broker::with_user("u", "secret") else { return };
    let source = Source::start(100);
    let wrong = url(&format!("u:guess@{}", broker.address()));
    let right = url(&format!("u:secret@{}", broker.address()));
    let refused = [
        ingest(TOKIO, &source.address, &wrong, &[]),
        edge(SMOL, &wrong, &[]),
        edge(STD, &url(&broker.address()), &[]),
    ];
    for server in &refused {
        eventually("the refusal is logged", || server.logged("Authorization Violation") > 0);
    }
    assert_eq!(source.connections(), 0, "an ingest without a lease does not dial the source");

    let ingest = ingest(STD, &source.address, &right, &[]);
    let edge = edge(TOKIO, &right, &[]);
    let subscribers = Subscribers::connect(&edge, 3);
    subscribers.await_first();
    edge.stop();
    for received in subscribers.await_end() {
        assert_eq!(received.gaps, []);
    }
    for server in refused.into_iter().chain([ingest]) {
        let log = server.stop();
        assert!(!log.contains("guess") && !log.contains("secret"), "a password in the log: {log}");
    }
}
