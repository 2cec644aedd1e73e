//! The lines of the access log. Their format is documented in `docs/operate.md`, and stays.

use std::time::SystemTime;

use serde::Serialize;
use wirestate_core::{admission::ConnectionEnd, quantity::Seconds};

/// A line of text: all fields in this order, whatever the connection was.
pub(super) fn text(end: &ConnectionEnd<'_>) -> Vec<u8> {
    let connection = end.connection;
    let upstream = connection.upstream();
    let endpoint = upstream.as_ref().map(|upstream| &*upstream.endpoint);
    let name = or_none(endpoint.map(|endpoint| quoted(endpoint.upstream())));
    let address = or_none(endpoint.map(|endpoint| quoted(endpoint.address())));
    let connect = upstream.as_ref().map(|upstream| upstream.connect_time.as_secs_f64());
    let connect = or_none(connect.map(|seconds| format!("{seconds:.6}")));
    let identity = or_none(connection.identity().map(|identity| format!("\"{identity}\"")));
    format!(
        "{} server={} id={} peer={} upstream={name} upstream_address={address} \
         connect_seconds={connect} received={} sent={} duration_seconds={:.6} reason={} \
         identity={identity}\n",
        humantime::format_rfc3339_millis(SystemTime::now()),
        end.server.unwrap_or("-"),
        connection.id(),
        connection.peer(),
        connection.bytes_received(),
        connection.bytes_sent(),
        end.at.since(connection.since()).as_secs_f64(),
        end.reason,
    )
    .into_bytes()
}

/// A line of JSON.
pub(super) fn json(end: &ConnectionEnd<'_>) -> Vec<u8> {
    let connection = end.connection;
    let upstream = connection.upstream();
    let endpoint = upstream.as_ref().map(|upstream| &*upstream.endpoint);
    let mut line = serde_json::to_vec(&Fields {
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        server: end.server,
        id: connection.id(),
        peer: connection.peer().to_string(),
        upstream: endpoint.map(|endpoint| &**endpoint.upstream()),
        upstream_address: endpoint.map(|endpoint| &**endpoint.address()),
        connect_seconds: upstream.as_ref().map(|it| Seconds(it.connect_time).to_field()),
        received: connection.bytes_received(),
        sent: connection.bytes_sent(),
        duration_seconds: Seconds(end.at.since(connection.since())).to_field(),
        reason: end.reason,
        identity: connection.identity().as_deref(),
    })
    .expect("numbers and text can be written as JSON");
    line.push(b'\n');
    line
}

#[derive(Serialize)]
struct Fields<'a> {
    time: String,
    server: Option<&'a str>,
    id: u64,
    peer: String,
    upstream: Option<&'a str>,
    upstream_address: Option<&'a str>,
    connect_seconds: Option<f64>,
    received: u64,
    sent: u64,
    duration_seconds: f64,
    reason: &'static str,
    identity: Option<&'a str>,
}

/// `value`, or `-`.
fn or_none(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".into())
}

/// `value`, in quotes if it has a space or a quote: then it is the path of a Unix socket.
fn quoted(value: &str) -> String {
    if value.contains([' ', '"']) { format!("{value:?}") } else { value.into() }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use wirestate_core::{
        Instant,
        admission::{EndObserver, Limits, Peer},
        echo::EchoReason,
        serve::{Config, ServerHandle},
        shared::Shared,
    };

    use super::*;

    /// The line of a connection that has received 1200 bytes, sent 5 and ended after 1.5 s.
    fn line(of: fn(&ConnectionEnd<'_>) -> Vec<u8>, identity: Option<&str>) -> String {
        let lines = Shared::new(Mutex::new(Vec::new()));
        let written = lines.clone();
        let observer = EndObserver::new(move |end| written.lock().unwrap().push(of(end)));
        let config = Config::default().with_limits(Limits::default()).with_on_end(observer);
        let handle = ServerHandle::new(config.with_name("edge"));
        let start = Instant::EPOCH + Duration::from_secs(7);
        let peer = Peer::Ip("192.0.2.7:50000".parse().unwrap());
        let admitted = handle.table().admit(peer, start).unwrap();
        admitted.count(1200, 5, start);
        if let Some(identity) = identity {
            admitted.set_identity(identity);
        }
        admitted.end(&EchoReason::Finished, start + Duration::from_millis(1500));
        let [line] = &lines.lock().unwrap()[..] else { panic!("not one line") };
        String::from_utf8(line.clone()).unwrap()
    }

    #[test]
    fn a_line_of_text_has_all_fields_in_their_order() {
        let text_of = |identity| {
            let line = line(text, identity);
            let (time, rest) = line.split_once(' ').unwrap();
            assert!(humantime::parse_rfc3339(time).is_ok() && time.ends_with('Z'), "{time}");
            rest.to_owned()
        };
        let common = "server=edge id=1 peer=192.0.2.7:50000 upstream=- upstream_address=- \
                      connect_seconds=- received=1200 sent=5 duration_seconds=1.500000 \
                      reason=finished";
        assert_eq!(text_of(None), format!("{common} identity=-\n"));
        let identity = text_of(Some("CN=a \"b\"\n"));
        assert_eq!(identity, format!("{common} identity=\"CN=a \\\"b\\\"\\n\"\n"));
    }

    #[test]
    fn a_line_of_json_is_one_object() {
        let line = line(json, Some("CN=a"));
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1, "{line}");
        let mut object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(humantime::parse_rfc3339(object["time"].take().as_str().unwrap()).is_ok());
        let expected = serde_json::json!({
            "time": null, "server": "edge", "id": 1, "peer": "192.0.2.7:50000", "upstream": null,
            "upstream_address": null, "connect_seconds": null,
            "received": 1200, "sent": 5, "duration_seconds": 1.5, "reason": "finished",
            "identity": "CN=a",
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn a_path_with_a_space_is_quoted() {
        assert_eq!(quoted("10.0.0.1:9000"), "10.0.0.1:9000");
        assert_eq!(quoted("unix:/run/a b"), "\"unix:/run/a b\"");
    }
}
