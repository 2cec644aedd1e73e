//! What a cluster loses when a node is down, and what arrives late.

use std::time::Duration;

use wirestate_core::Instant;

use super::{
    Api, Cluster, Settings, Version,
    direct::{Direct, RawClient as _},
};

const NODES: [&str; 3] = ["n0", "n1", "n2"];
const FEED: &str = "{\"name\":\"F\",\"subjects\":[\"feed\"],\"num_replicas\":3}";
const ALL: Duration = Duration::from_secs(5);

/// A cluster with the stream `F`, and a client of each node.
fn cluster(settings: Settings) -> (Cluster, [Direct; 3]) {
    let cluster = Cluster::new(settings);
    for node in NODES {
        cluster.node_up(node, Instant::EPOCH);
    }
    let mut clients = NODES.map(|node| Direct::connect(&cluster, node, Instant::EPOCH));
    let created = clients[0].request("$JS.API.STREAM.CREATE.F", "", FEED);
    assert!(created.contains("did_create"), "{created}");
    (cluster, clients)
}

fn payloads(cluster: &Cluster) -> Vec<String> {
    let messages = cluster.messages("F");
    let text = |payload: &bytes::Bytes| String::from_utf8(payload.to_vec()).unwrap();
    messages.iter().map(|message| text(&message.payload)).collect()
}

#[test]
fn a_leader_that_is_killed_loses_the_end_of_what_it_had_accepted() {
    let mut kept = Vec::new();
    for seed in 0..20 {
        let commit_delay = Duration::from_millis(10);
        let (cluster, clients) = cluster(Settings { seed, ..Settings::default() });
        cluster.set_commit_delay(commit_delay);
        let [mut leader, mut client, _] = clients;
        assert_eq!(client.request("feed", "", "0"), "");
        client.wait(commit_delay);
        assert!(client.received().ends_with("{\"stream\":\"F\",\"seq\":1}\r\n"));

        for number in 1..=4 {
            client.request("feed", "", &number.to_string());
        }
        leader.now = client.now;
        cluster.node_down(NODES[0], client.now);
        assert_eq!(client.received(), "", "nothing is acknowledged");
        let stored = payloads(&cluster);
        assert_eq!(stored, ["0", "1", "2", "3", "4"][..stored.len()]);
        kept.push(stored.len());

        let text = client.request("feed", "", "lost");
        assert!(text.contains("503"), "{text}");
        client.wait(ALL);
        client.request("feed", "", "next");
        client.wait(commit_delay);
        let sequence = stored.len() + 1;
        let text = client.received();
        assert!(text.contains(&format!("\"seq\":{sequence}}}")), "{text}");
        assert_eq!(payloads(&cluster).last().unwrap(), "next");
    }
    for count in 1..=5 {
        assert!(kept.contains(&count), "{kept:?}");
    }
}

/// Somebody else's message takes the sequence of one in flight.
#[test]
fn a_chain_of_publications_in_flight_is_refused_as_a_whole() {
    for version in [Version::V2_9, Version::V2_15] {
        let (cluster, [mut client, mut other, _]) =
            cluster(Settings { version, ..Settings::default() });
        cluster.set_commit_delay(Duration::from_millis(10));
        client.request("feed", "Nats-Msg-Id: 1-0\r\nNats-Expected-Last-Sequence: 0\r\n", "0");
        other.request("feed", "", "foreign");
        for position in 1..=3 {
            let before = position - 1;
            let headers = format!(
                "Nats-Msg-Id: 1-{position}\r\nNats-Expected-Last-Sequence: {position}\r\n\
                 Nats-Expected-Last-Msg-Id: 1-{before}\r\n"
            );
            client.request("feed", &headers, "x");
        }
        client.wait(Duration::from_millis(10));
        assert_eq!(payloads(&cluster), ["0", "foreign"], "{version:?}");
    }
}

#[test]
fn a_publication_under_way_arrives_after_its_connection_has_ended() {
    let (cluster, [mut late, mut client, _]) = cluster(Settings::default());
    cluster.set_route_delay(NODES[0], Duration::from_secs(30));
    late.request("feed", "Nats-Expected-Last-Sequence: 0\r\n", "fenced");
    late.request("feed", "", "late");
    cluster.set_route_delay(NODES[0], Duration::ZERO);
    late.request("feed", "", "behind it");
    drop(late);
    client.request("feed", "Nats-Expected-Last-Sequence: 0\r\n", "first");
    client.wait(Duration::from_secs(29));
    assert_eq!(payloads(&cluster), ["first"]);
    client.wait(Duration::from_secs(1));
    assert_eq!(payloads(&cluster), ["first", "late", "behind it"]);
}

#[test]
fn the_consumers_of_a_node_are_silent_while_it_is_down_and_begin_again_after_it() {
    for version in [Version::V2_9, Version::V2_15] {
        let (cluster, [mut client, mut other, _]) =
            cluster(Settings { version, ..Settings::default() });
        for payload in ["0", "1"] {
            client.request("feed", "", payload);
        }
        let create = "{\"stream_name\":\"F\",\"config\":{\"deliver_policy\":\"all\",\
                      \"ack_policy\":\"none\",\"num_replicas\":1,\"mem_storage\":true,\
                      \"inactive_threshold\":60000000000}}";
        for consumer in 0..8 {
            client.request(&format!("$JS.API.CONSUMER.CREATE.F.c{consumer}"), "", create);
        }
        let pull = |client: &mut Direct| -> Vec<String> {
            let next = |consumer| format!("$JS.API.CONSUMER.MSG.NEXT.F.c{consumer}");
            (0..8).map(|consumer| client.request(&next(consumer), "", "")).collect()
        };
        assert!(pull(&mut client).iter().all(|text| text.ends_with("0\r\n")));
        // Both see what comes to the common inbox.
        other.receive();
        cluster.node_down(NODES[0], client.now);
        let silent = |text: &String| match version {
            Version::V2_9 => text.is_empty(),
            Version::V2_15 => text.contains(" 503\r\n"),
        };
        let answers = pull(&mut other);
        let lost: Vec<usize> = (0..8).filter(|&index| silent(&answers[index])).collect();
        assert!(!lost.is_empty() && lost.len() < 8, "{answers:?}");
        assert!(answers.iter().all(|text| silent(text) || text.ends_with("1\r\n")), "{answers:?}");
        cluster.node_up(NODES[0], other.now);
        for (consumer, text) in pull(&mut other).iter().enumerate() {
            let expected = if lost.contains(&consumer) { "0\r\n" } else { "" };
            assert!(text.ends_with(expected) && text.is_empty() == expected.is_empty(), "{text}");
        }
    }
}

#[test]
fn a_majority_is_needed() {
    let (cluster, [_, _, mut client]) = cluster(Settings::default());
    cluster.node_down(NODES[0], client.now);
    cluster.node_down(NODES[1], client.now);
    client.wait(ALL);
    assert!(client.request("feed", "", "x").contains("503"));
    assert_eq!(client.request("$JS.API.STREAM.INFO.F", "", ""), "");
    client.wait(Duration::from_millis(500));
    let text = client.received();
    assert!(text.contains("\"err_code\":10008"), "{text}");
    cluster.node_up(NODES[1], client.now);
    client.wait(ALL);
    assert!(client.request("feed", "", "x").contains("\"seq\":1"));
    cluster.set_api(Some(Api::Silent));
    assert_eq!(client.request("$JS.API.STREAM.INFO.F", "", ""), "");
    cluster.set_api(None);
    assert!(client.request("$JS.API.STREAM.INFO.F", "", "").contains("\"last_seq\":1"));
}

#[test]
fn a_stream_without_replicas_is_away_with_its_node() {
    for (storage, expected) in [("file", Some(1)), ("memory", Some(0))] {
        let (cluster, [mut client, mut other, _]) = cluster(Settings::default());
        let create = format!("{{\"name\":\"R\",\"subjects\":[\"r\"],\"storage\":{storage:?}}}");
        client.request("$JS.API.STREAM.CREATE.R", "", &create);
        client.request("r", "", "0");
        other.receive();
        cluster.node_down(NODES[0], client.now);
        other.wait(ALL);
        assert!(other.request("r", "", "1").contains("503"));
        assert_eq!(other.request("$JS.API.STREAM.INFO.R", "", ""), "");
        assert!(other.request("feed", "", "1").contains("\"seq\":1}"));
        cluster.node_up(NODES[0], other.now);
        assert_eq!(cluster.last_sequence("R"), expected);
    }
}

#[test]
fn acknowledged_messages_can_be_lost() {
    // A power failure, before the server has synced its files.
    let (cluster, [mut client, ..]) = cluster(Settings::default());
    for payload in ["0", "1", "2"] {
        client.request("feed", "Nats-Msg-Id: x\r\n".replace('x', payload).as_str(), payload);
    }
    cluster.truncate("F", 1);
    assert_eq!((payloads(&cluster).len(), cluster.last_sequence("F")), (1, Some(1)));
    assert!(client.request("feed", "Nats-Msg-Id: 2\r\n", "2").contains("\"seq\":2}"));
    // A single server has a stream in memory until it ends.
    for (storage, expected) in [("file", Some(1)), ("memory", None)] {
        let cluster = Cluster::default();
        cluster.node_up("n", Instant::EPOCH);
        let mut client = Direct::connect(&cluster, "n", Instant::EPOCH);
        let create = format!("{{\"name\":\"F\",\"subjects\":[\"feed\"],\"storage\":{storage:?}}}");
        client.request("$JS.API.STREAM.CREATE.F", "", &create);
        client.request("feed", "", "0");
        cluster.node_down("n", client.now);
        cluster.node_up("n", client.now);
        assert_eq!(cluster.last_sequence("F"), expected);
    }
}

#[test]
fn a_publisher_without_a_connection_and_an_operator() {
    let (cluster, [mut client, ..]) = cluster(Settings::default());
    cluster.publish("feed", "Nats-Msg-Id: a\r\n", "0");
    assert_eq!(cluster.messages("F")[0].id.as_deref(), Some("a"));
    assert_eq!((cluster.purge("F"), cluster.messages("F").len()), (1, 0));
    cluster.delete_stream("F");
    assert!(client.request("feed", "", "0").contains("503"));
    cluster.set_max_payload(3);
    let text = client.request("feed", "", "long");
    assert!(text.ends_with("-ERR 'Maximum Payload Violation'\r\n"), "{text}");
}
