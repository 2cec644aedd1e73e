//! A status server of several services, which are replaced while it runs.

use std::{
    collections::BTreeSet,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use serde_json::Value;
use wirestate_core::{
    Instant, Status,
    admission::{Admitted, Command, Peer},
    fanout::Feed,
    proxy::{Balance, Upstreams},
    serve::ServerHandle,
    shared::Shared,
    status::{Config, Metric, MetricValue, MetricsSource, Server, Service, Services},
};

use crate::alone::get;

/// It is escaped in HTML, in JSON, in a label and in a query.
const ODD: &str = "<b> & \"q\"\\";

#[derive(Debug)]
struct OfProcess;

impl MetricsSource for OfProcess {
    fn metrics(&self, _now: Instant) -> Vec<Metric> {
        vec![Metric::new("wirestate_process", "Of the process.", MetricValue::Gauge(7))]
    }
}

fn server(services: &Services) -> Server {
    let of_process = Some(Arc::new(OfProcess) as Shared<dyn MetricsSource>);
    Server::new(Config::default(), services.clone(), of_process, Instant::EPOCH).unwrap()
}

/// Opens a connection `seconds` after the start.
fn admit(handle: &ServerHandle, seconds: u64) -> Admitted {
    let now = Instant::EPOCH + Duration::from_secs(seconds);
    handle.table().admit(Peer::Local, now).unwrap()
}

fn json(server: &Server, path: &str) -> Value {
    serde_json::from_str(&get(server, path, "Accept: application/json\r\n").1).unwrap()
}

fn service(name: &str, handle: &ServerHandle) -> Service {
    Service::new(name, handle, None)
}

#[test]
fn every_page_shows_all_servers() {
    let (first, second) = (ServerHandle::default(), ServerHandle::default());
    let upstreams = Upstreams::new(["127.0.0.1:9".to_string()], Balance::RoundRobin, 0);
    let services = Services::default();
    services.set([
        Service::new("proxy", &second, Some(Arc::new(upstreams))),
        Service::new(ODD, &first, Some(Arc::new(Feed::default()))),
    ]);
    let server = server(&services);
    let _open = [admit(&first, 1), admit(&second, 2), admit(&first, 3)];

    let root = json(&server, "/");
    assert_eq!(root["message"], "2 of 2 servers are accepting connections");
    let names: Vec<_> = root["servers"].as_array().unwrap().iter().map(|s| &s["name"]).collect();
    assert_eq!(names, [ODD, "proxy"]);
    assert_eq!(root["servers"][0]["connections"]["open"], 2);
    assert_eq!(root["servers"][0]["figures"]["wirestate_upstream_up"], 0);
    assert_eq!(
        root["servers"][1]["figures"]["wirestate_proxy_upstream_up"]["127.0.0.1:9"], 1,
        "{root}"
    );
    assert_eq!(root["figures"]["wirestate_process"], 7);

    let (_, metrics) = get(&server, "/metrics", "");
    for line in [
        r#"wirestate_connections_open{server="<b> & \"q\"\\"} 2"#,
        r#"wirestate_connections_open{server="proxy"} 1"#,
        r#"wirestate_fanout_latency_seconds_count{server="<b> & \"q\"\\"} 0"#,
        r#"wirestate_proxy_upstream_up{server="proxy",upstream="127.0.0.1:9"} 1"#,
        "wirestate_process 7",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line}: {metrics}");
    }
    let types: Vec<_> = metrics.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    assert_eq!(types.len(), BTreeSet::from_iter(&types).len(), "a family twice: {metrics}");

    let list = json(&server, "/connections");
    assert_eq!(list["open"], 3);
    let rows: Vec<_> = list["connections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["server"].as_str().unwrap(), row["id"].as_u64().unwrap()))
        .collect();
    assert_eq!(rows, [(ODD, 1), ("proxy", 1), (ODD, 2)], "not the oldest first");
    let (_, html) = get(&server, "/connections", "Accept: text/html\r\n");
    assert!(html.contains("<td>&lt;b&gt; &amp; &quot;q&quot;\\</td>"), "{html}");
    let (_, table) = get(&server, "/connections", "");
    assert!(table.contains("\n<b> & \"q\"\\ "), "{table}");
}

#[test]
fn the_connections_of_one_server_are_listed() {
    let (first, second) = (ServerHandle::default(), ServerHandle::default());
    let services = Services::from([service(ODD, &first), service("echo", &second)]);
    let server = server(&services);
    let _open = [admit(&first, 1), admit(&second, 2)];
    let (head, content) = get(&server, "/connections?server=nobody&format=json", "");
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert_eq!(content, "no server has this name\n");
    let list = json(&server, "/connections?server=%3Cb%3e%20%26%20%22q%22%5c");
    assert_eq!((&list["open"], &list["connections"][0]["server"]), (&1.into(), &ODD.into()));
    assert_eq!(list["message"], format!("{ODD} is accepting connections"));
}

#[test]
fn all_servers_must_accept_for_readiness() {
    let (first, second) = (ServerHandle::default(), ServerHandle::default());
    let services = Services::default();
    let server = server(&services);
    let is_ready = || get(&server, "/readyz", "").0.starts_with("HTTP/1.1 200 ");
    assert!(!is_ready(), "without a server");
    services.set([service("a", &first), service("b", &second)]);
    assert!(is_ready());
    first.drain();
    assert!(!is_ready());
    assert_eq!(json(&server, "/")["message"], "1 of 2 servers are accepting connections");
    assert!(get(&server, "/metrics", "").1.contains("\nwirestate_ready{server=\"a\"} 0\n"));
}

#[test]
fn servers_are_replaced_while_the_status_is_served() {
    let (old, new) = (ServerHandle::default(), ServerHandle::default());
    let services = Services::from([service("a", &old), service("b", &old)]);
    let server = server(&services);
    old.drain();
    services.set([service("c", &old), service("b", &old), service("b", &new)]);
    let names = || json(&server, "/")["servers"].clone();
    let (b, c) = (&names()[0], &names()[1]);
    assert_eq!((&b["name"], &b["state"]), (&"b".into(), &"accepting".into()), "not the last one");
    assert_eq!((&c["name"], &c["state"]), (&"c".into(), &"stopping".into()));
    services.set([]);
    assert_eq!(names(), Value::Array(vec![]));
}

#[test]
fn the_connections_that_lag_most_are_in_the_overview() {
    let handle = ServerHandle::default();
    let server = server(&Services::from([service("fanout", &handle)]));
    let lags = [3, 0, 9, 1, 7, 2, 5];
    let open: Vec<_> = lags.iter().map(|_| admit(&handle, 1)).collect();
    for (connection, lag) in open.iter().zip(lags) {
        let mut cx = Context::from_waker(Waker::noop());
        let status = Status { state: if lag > 2 { "late" } else { "open" }, queued: 0, lag };
        connection.publish(status, &mut cx, Command::None);
    }
    let shown = json(&server, "/")["servers"][0].clone();
    let lagging = shown["lagging"].as_array().unwrap();
    let rows = lagging.iter().map(|row| (row["id"].as_u64().unwrap(), row["lag"].clone()));
    let expected = [(3, 9), (5, 7), (7, 5), (1, 3), (6, 2)].map(|(id, lag)| (id, lag.into()));
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    assert_eq!(shown["connections"]["states"], serde_json::json!({"late": 4, "open": 3}));
}
