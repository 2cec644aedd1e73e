//! What clients of a feed send to a server, and some mistakes.

use std::time::Duration;

/// What is sent, and how long to wait for what comes late.
pub(super) struct Step {
    pub(super) subject: &'static str,
    pub(super) headers: &'static str,
    pub(super) payload: String,
    pub(super) wait: Duration,
}

/// All steps, in their order.
pub(super) fn steps() -> Vec<Step> {
    let mut steps = Steps(Vec::new());
    steps.stream();
    steps.messages();
    steps.consumers();
    steps.ends();
    steps.limits();
    steps.lease();
    steps.0
}

struct Steps(Vec<Step>);

impl Steps {
    /// Sends an operation.
    fn add(&mut self, subject: &'static str, headers: &'static str, payload: &str) {
        let (payload, wait) = (payload.to_owned(), Duration::ZERO);
        self.0.push(Step { subject, headers, payload, wait });
    }

    /// Waits after the last operation.
    fn wait(&mut self, millis: u64) {
        self.0.last_mut().unwrap().wait = Duration::from_millis(millis);
    }

    /// Makes the stream.
    fn stream(&mut self) {
        self.add("$JS.API.STREAM.INFO.F", "", "");
        self.add("$JS.API.STREAM.CREATE.F", "", &config(""));
        let full = ",\"retention\":\"limits\",\"storage\":\"file\",\"num_replicas\":1,\
                \"discard\":\"old\",\"max_msgs\":-1,\"max_bytes\":-1,\"max_age\":0,\
                \"duplicate_window\":120000000000";
        self.add("$JS.API.STREAM.CREATE.F", "", &config(full));
        self.add("$JS.API.STREAM.CREATE.F", "", &config(",\"max_msgs\":5"));
        self.add("$JS.API.STREAM.CREATE.F", "", "{\"name\":\"G\",\"subjects\":[\"g\"]}");
        self.add("$JS.API.STREAM.CREATE.G", "", "{\"name\":\"G\",\"subjects\":[\"*\"]}");
        self.add("$JS.API.STREAM.CREATE.G", "", "{\"name\":\"G\",\"subjects\":[\"g\",\"g\"]}");
        self.add("$JS.API.STREAM.CREATE.G", "", "{\"name\":\"G\",\"subjects\":[\"a b\"]}");
        self.add("$JS.API.STREAM.CREATE.G", "", "{\"name\":\"G\",\"num_replicas\":3}");
        self.add("$JS.API.STREAM.CREATE.G", "", "{\"name\":\"G\",\"max_age\":1}");
        self.add("$JS.API.STREAM.INFO.F", "", "");
    }

    /// Publishes messages, and reads them.
    fn messages(&mut self) {
        self.add("feed", "", "one\n");
        let id = "Nats-Msg-Id: 1-0\r\nNats-Expected-Last-Sequence: 1\r\n";
        self.add("feed", id, "two\n");
        self.add("feed", id, "two\n");
        self.add("feed", "Nats-Msg-Id: 1-0\r\n", "two\n");
        self.add("feed", "Nats-Msg-Id: 1-1\r\nNats-Expected-Last-Sequence: 1\r\n", "three\n");
        self.add("feed", "Nats-Msg-Id: 1-1\r\nNats-Expected-Last-Sequence: 2\r\n", "three\n");
        self.add("feed", "Nats-Expected-Last-Sequence: x\r\n", "");
        self.add("feed", "Nats-Expected-Last-Subject-Sequence: 2\r\n", "");
        self.add("feed", "Nats-Expected-Last-Subject-Sequence: 3\r\n", "four\n");
        self.add("feed", "Nats-Expected-Stream: G\r\n", "");
        self.add("feed", "Nats-Expected-Last-Msg-Id: 1-1\r\n", "");
        self.add("nobody", "", "");
        self.add("$JS.API.STREAM.INFO.F", "", "");
        for request in [
            "{\"seq\":1}",
            "{\"seq\":2}",
            "{\"seq\":99}",
            "{}",
            "{\"last_by_subj\":\"feed\"}",
            "{\"last_by_subj\":\"other\"}",
        ] {
            self.add("$JS.API.STREAM.MSG.GET.F", "", request);
        }
        self.add("$JS.API.STREAM.MSG.GET.G", "", "{\"seq\":1}");
    }

    /// Makes a consumer, and receives by it.
    fn consumers(&mut self) {
        self.add("$JS.API.CONSUMER.CREATE.G.c", "", &consumer(""));
        self.add("$JS.API.CONSUMER.CREATE.F.c", "", &consumer(""));
        self.add("$JS.API.CONSUMER.CREATE.F.c", "", &consumer(",\"opt_start_seq\":2"));
        self.add("$JS.API.CONSUMER.CREATE.F.c", "", &consumer(",\"opt_start_seq\":2"));
        self.add("$JS.API.CONSUMER.CREATE.F.c", "", &consumer(",\"opt_start_seq\":3"));
        self.add("$JS.API.CONSUMER.INFO.F.c", "", "");
        self.add("$JS.API.CONSUMER.INFO.F.d", "", "");
        self.add("$JS.API.CONSUMER.MSG.NEXT.F.d", "", "");
        self.add(NEXT, "", "");
        self.add(NEXT, "", "{\"batch\":1,\"no_wait\":true}");
        self.add(NEXT, "", "{\"batch\":10,\"max_bytes\":100,\"expires\":9000000000}");
        self.add(NEXT, "", "{\"batch\":1,\"max_bytes\":1000,\"expires\":9000000000}");
        self.add(NEXT, "", "{\"batch\":1,\"no_wait\":true}");
        self.add(NEXT, "", "{\"batch\":1,\"expires\":100000000,\"idle_heartbeat\":60000000}");
        self.add(NEXT, "", "{\"batch\":3,\"expires\":590000000,\"idle_heartbeat\":200000000}");
        self.wait(700);
        self.add(NEXT, "", "{\"batch\":3,\"expires\":9000000000}");
        self.add(NEXT, "", "{\"batch\":2,\"max_bytes\":1000,\"expires\":9000000000}");
        self.add("feed", "Nats-Msg-Id: 1-4\r\n", "five\n");
        self.add("feed", "Nats-Msg-Id: 1-5\r\n", "six\n");
        self.add("feed", "", "seven\n");
        self.add("$JS.API.CONSUMER.INFO.F.c", "", "");
    }

    /// Purges the stream, and deletes the consumer and the stream.
    fn ends(&mut self) {
        self.add("feed", "Nats-Msg-Id: 1-6\r\n", "seven\n");
        self.add("feed", "Nats-Msg-Id: 1-7\r\nNats-Expected-Last-Msg-Id: 1-6\r\n", "eight\n");
        self.add("$JS.API.STREAM.PURGE.F", "", "");
        self.add("$JS.API.STREAM.INFO.F", "", "");
        self.add("feed", "Nats-Expected-Last-Msg-Id: 1-6\r\n", "nine\n");
        self.add("feed", "Nats-Expected-Last-Msg-Id: 1-7\r\n", "nine\n");
        self.add("feed", "Nats-Msg-Id: 1-5\r\n", "six\n");
        self.add("feed", "", "eight\n");
        self.add(NEXT, "", "{\"batch\":5,\"expires\":9000000000}");
        self.add("$JS.API.CONSUMER.DELETE.F.c", "", "");
        self.add("$JS.API.CONSUMER.DELETE.F.c", "", "");
        let far = consumer(",\"opt_start_seq\":100,\"max_waiting\":1");
        self.add("$JS.API.CONSUMER.CREATE.F.c", "", &far);
        self.add(NEXT, "", "{\"batch\":5,\"expires\":9000000000}");
        self.add(NEXT, "", "{\"batch\":5,\"expires\":9000000000}");
        self.add(NEXT, "", "{\"batch\":5,\"expires\":9000000000,\"idle_heartbeat\":4000000000}");
        self.add("feed", "", "nine\n");
        self.add("$JS.API.STREAM.PURGE.G", "", "");
        self.add("$JS.API.STREAM.DELETE.F", "", "");
        self.add("$JS.API.STREAM.DELETE.F", "", "");
        self.add("feed", "", "");
        self.add(NEXT, "", "");
    }

    /// Reaches the limits of streams.
    ///
    /// Each has a name of its own: the newer server cannot always make a stream at once whose
    /// namesake was deleted (error 10049).
    fn limits(&mut self) {
        let old = "{\"name\":\"A\",\"subjects\":[\"a\"],\"storage\":\"memory\",\"max_msgs\":3,\
                   \"max_msg_size\":10,\"max_bytes\":80}";
        self.add("$JS.API.STREAM.CREATE.A", "", old);
        for payload in ["1", "2", "3", "4", "5555555555", "66666666666"] {
            self.add("a", "", payload);
        }
        self.add("$JS.API.STREAM.INFO.A", "", "");
        let new = "{\"name\":\"B\",\"subjects\":[\"b\"],\"max_msgs\":1,\"discard\":\"new\"}";
        self.add("$JS.API.STREAM.CREATE.B", "", new);
        self.add("b", "", "1");
        self.add("b", "", "2");
    }

    /// Takes a lease in a bucket, renews and releases it, and lets it expire.
    fn lease(&mut self) {
        let bucket = "{\"name\":\"KV_l\",\"subjects\":[\"$KV.l.>\"],\"max_msgs_per_subject\":1,\
                  \"max_age\":700000000,\"duplicate_window\":700000000,\"discard\":\"new\",\
                  \"allow_rollup_hdrs\":true,\"deny_delete\":true,\"allow_direct\":true}";
        self.add("$JS.API.STREAM.CREATE.KV_l", "", bucket);
        self.add(LEASE, "Nats-Expected-Last-Subject-Sequence: 0\r\n", "a");
        self.add(LEASE, "Nats-Expected-Last-Subject-Sequence: 0\r\n", "b");
        self.add(LEASE, "Nats-Expected-Last-Subject-Sequence: 1\r\n", "a");
        self.add("$JS.API.STREAM.MSG.GET.KV_l", "", "{\"last_by_subj\":\"$KV.l.lease\"}");
        self.add("$JS.API.STREAM.MSG.GET.KV_l", "", "{\"seq\":1}");
        let release = "KV-Operation: PURGE\r\nNats-Rollup: sub\r\n\
                   Nats-Expected-Last-Subject-Sequence: 2\r\n";
        self.add(LEASE, release, "");
        self.add("$JS.API.STREAM.MSG.GET.KV_l", "", "{\"last_by_subj\":\"$KV.l.lease\"}");
        self.add(LEASE, "Nats-Expected-Last-Subject-Sequence: 0\r\n", "b");
        self.add(LEASE, "Nats-Expected-Last-Subject-Sequence: 3\r\n", "b");
        self.wait(1000);
        self.add("$JS.API.STREAM.MSG.GET.KV_l", "", "{\"last_by_subj\":\"$KV.l.lease\"}");
        self.add(LEASE, "Nats-Expected-Last-Subject-Sequence: 0\r\n", "a");
        self.add("$JS.API.STREAM.INFO.KV_l", "", "");
    }
}

/// The configuration of the stream.
fn config(more: &str) -> String {
    format!("{{\"name\":\"F\",\"subjects\":[\"feed\"]{more}}}")
}

/// A request for a consumer.
fn consumer(more: &str) -> String {
    format!(
        "{{\"stream_name\":\"F\",\"config\":{{\"name\":\"c\",\"ack_policy\":\"none\",\
         \"deliver_policy\":\"by_start_sequence\",\"replay_policy\":\"instant\",\
         \"max_deliver\":-1,\"inactive_threshold\":30000000000,\"num_replicas\":1,\
         \"mem_storage\":true{more}}}}}"
    )
}

const NEXT: &str = "$JS.API.CONSUMER.MSG.NEXT.F.c";
const LEASE: &str = "$KV.l.lease";
