//! The API of `JetStream`: its requests and replies.

use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use rand::RngExt as _;
use serde::Deserialize;
use wirestate_core::Instant;

use super::{
    Api, Version,
    config::{ConsumerConfig, StreamConfig},
    consumer::{Consumer, Pulling},
    jetstream::{JetStream, Leader, NodeState},
    reply::{
        ApiError, ClusterInfo, ConsumerReply, FoundMessage, MessageText, Nothing, Page, Reply,
        StreamDescription, StreamInfo, Success,
    },
    state::Delivery,
    stream::Stream,
    subjects::{Subscriptions, overlap},
    time::rfc3339,
};

impl JetStream {
    /// Answers a request of the API. Returns false if nobody has subscribed to its subject.
    pub(super) fn request(
        &mut self,
        subject: &str,
        payload: &[u8],
        reply: &str,
        interest: &Subscriptions,
        now: Instant,
    ) -> bool {
        let words: Vec<&str> = subject.split('.').skip(2).collect();
        if let ["CONSUMER", "MSG", "NEXT", stream, consumer] = words[..] {
            return self.pull(stream, consumer, payload, reply, interest, now);
        }
        if let ["STREAM", "MSG", "GET", name]
        | ["STREAM", _, name]
        | ["CONSUMER", "CREATE", name, ..]
        | ["CONSUMER", _, name, _] = words[..]
            && let Some(node) = self.streams.get(name).and_then(|stream| stream.node.as_ref())
            && !self.is_up(node)
        {
            // The only server that could answer.
            return true;
        }
        let api = self.api.unwrap_or(match self.leader {
            Leader::Node(_) => Api::Up,
            Leader::Elected { meanwhile, .. } => meanwhile,
            Leader::None => Api::Unavailable,
        });
        for stream in self.streams.values_mut() {
            stream.expire(now);
        }
        let error = (api == Api::Unavailable).then(ApiError::unavailable);
        let answer = match words[..] {
            ["INFO"] => Some(Reply::json("account_info", error, Nothing {})),
            ["STREAM", action, name] => {
                Some(self.stream_request(action, name, payload, error, now))
            }
            ["STREAM", "MSG", "GET", name] => Some(self.message_request(name, payload, error)),
            ["CONSUMER", "CREATE", stream] => {
                Some(self.create_consumer(stream, None, payload, error, now))
            }
            ["CONSUMER", "CREATE", stream, name, ..] => {
                Some(self.create_consumer(stream, Some(name), payload, error, now))
            }
            ["CONSUMER", action, stream, name] => {
                self.consumer_request(action, stream, name, error, interest, now)
            }
            _ => panic!("a request that the model does not know: {subject}"),
        };
        match (api, answer) {
            (Api::Up, Some(answer)) => self.out.push(Delivery::new(reply, answer)),
            (Api::Unavailable, Some(answer)) => {
                self.send_later(now + ERROR_DELAY, Delivery::new(reply, answer));
            }
            (Api::Silent, _) | (_, None) => {}
        }
        true
    }

    fn stream_request(
        &mut self,
        action: &str,
        name: &str,
        payload: &[u8],
        error: Option<ApiError>,
        now: Instant,
    ) -> Bytes {
        let exists = self.streams.contains_key(name);
        let found = || if exists { None } else { Some(ApiError::stream_not_found()) };
        match action {
            "CREATE" => {
                let created = error.map_or_else(|| self.create_stream(name, payload, now), Err);
                self.stream_info("stream_create", name, created.err(), now)
            }
            "INFO" => self.stream_info("stream_info", name, error.or_else(found), now),
            "PURGE" => {
                assert!(payload.is_empty(), "a purge of a part is not modelled");
                let error = error.or_else(found);
                let purged = error.is_none().then(|| self.purge(name));
                let success = purged.is_some().then_some(true);
                let content = Success { success, purged: Some(purged.unwrap_or(0)) };
                Reply::json("stream_purge", error, content)
            }
            "DELETE" => {
                let error = error.or_else(found);
                let success = error.is_none().then_some(true);
                if success.is_some() {
                    self.delete_stream(name, now);
                }
                Reply::json("stream_delete", error, Success { success, purged: None })
            }
            _ => panic!("a request that the model does not know: STREAM.{action}"),
        }
    }

    fn create_stream(&mut self, name: &str, payload: &[u8], now: Instant) -> Result<(), ApiError> {
        let config = serde_json::from_slice::<StreamConfig>(payload);
        let config = config.map_err(|error| invalid_json(self.version(), &error))?;
        if config.name != name {
            let text = "stream name in subject does not match request";
            return Err(ApiError::new(400, 10056, text));
        }
        let config = config.complete(self.version())?;
        if let Some(stream) = self.streams.get(name) {
            if stream.config == config {
                return Ok(());
            }
            let text = "stream name already in use with a different configuration";
            return Err(ApiError::new(400, 10058, text));
        }
        self.check_replicas(config.num_replicas)?;
        let others = self.streams.values().flat_map(|stream| &stream.config.subjects);
        let overlaps = |other: &String| config.subjects.iter().any(|one| overlap(one, other));
        if others.into_iter().any(overlaps) {
            let text = "subjects overlap with an existing stream";
            return Err(ApiError::new(400, 10065, text));
        }
        let node = match &self.leader {
            Leader::Node(node) if self.is_cluster() && config.num_replicas == 1 => {
                Some(node.clone())
            }
            Leader::Node(_) | Leader::Elected { .. } | Leader::None => None,
        };
        self.streams.insert(name.to_owned(), Stream::new(config, node, now));
        Ok(())
    }

    fn check_replicas(&self, replicas: usize) -> Result<(), ApiError> {
        if replicas > 1 && !self.is_cluster() {
            let text = "replicas > 1 not supported in non-clustered mode";
            return Err(ApiError::new(500, 10074, text));
        }
        if replicas > self.nodes.len().max(1) {
            return Err(ApiError::new(400, 10005, "no suitable peers for placement"));
        }
        Ok(())
    }

    fn stream_info(
        &self,
        name: &str,
        stream: &str,
        error: Option<ApiError>,
        now: Instant,
    ) -> Bytes {
        let is_info = name == "stream_info";
        let is_new = self.version() == Version::V2_15;
        let found = self.streams.get(stream).filter(|_| error.is_none());
        let consumers = self.consumers.keys().filter(|(name, _)| name == stream).count();
        let leader = match &self.leader {
            Leader::Node(node) => node.clone(),
            Leader::Elected { .. } | Leader::None => String::new(),
        };
        let content = StreamInfo {
            page: is_info.then(Page::default),
            stream: found.map(|stream| StreamDescription {
                config: stream.config.clone(),
                created: rfc3339(Some(stream.created)),
                state: stream.state(consumers),
            }),
            cluster: found.filter(|_| is_info && is_new).map(|_| ClusterInfo { leader }),
            ts: found.filter(|_| is_new).map(|_| rfc3339(Some(now))),
            did_create: found.filter(|_| !is_info).map(|_| true),
        };
        Reply::json(name, error, content)
    }

    fn message_request(&self, name: &str, payload: &[u8], error: Option<ApiError>) -> Bytes {
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Request {
            seq: u64,
            last_by_subj: String,
        }
        const NAME: &str = "stream_msg_get";
        let find = || {
            let stream = self.streams.get(name).ok_or_else(ApiError::stream_not_found)?;
            let request = serde_json::from_slice::<Request>(payload);
            let request = request.map_err(|error| invalid_json(self.version(), &error))?;
            let sequence = match (request.seq, &*request.last_by_subj) {
                (0, "") => return Err(ApiError::new(400, 10003, "bad request")),
                (0, subject) => stream.last_of(subject).ok_or_else(ApiError::no_message)?,
                (sequence, _) => sequence,
            };
            let stored = stream.messages.get(&sequence).ok_or_else(ApiError::no_message)?;
            Ok(FoundMessage {
                message: MessageText {
                    subject: stored.publication.subject.clone(),
                    seq: sequence,
                    hdrs: BASE64.encode(&stored.publication.headers),
                    data: BASE64.encode(&stored.publication.payload),
                    time: rfc3339(Some(stored.at)),
                },
            })
        };
        match error.map_or_else(find, Err) {
            Ok(found) => Reply::json(NAME, None, found),
            Err(error) => Reply::json(NAME, Some(error), Nothing {}),
        }
    }

    fn create_consumer(
        &mut self,
        stream: &str,
        name: Option<&str>,
        payload: &[u8],
        error: Option<ApiError>,
        now: Instant,
    ) -> Bytes {
        let version = self.version();
        let created = error.map_or_else(|| self.add_consumer(stream, name, payload, now), Err);
        let (name, error) = match created {
            Ok(name) => (Some(name), None),
            Err(error) => (None, Some(error)),
        };
        let consumer = name.and_then(|name| self.consumers.get(&(stream.to_owned(), name)));
        let consumer = consumer.zip(self.streams.get(stream));
        let consumer = consumer.map(|(consumer, stream)| consumer.info(stream, version, now));
        Reply::json("consumer_create", error, ConsumerReply { consumer })
    }

    /// Adds a consumer, or finds it. Returns its name.
    fn add_consumer(
        &mut self,
        stream: &str,
        name: Option<&str>,
        payload: &[u8],
        now: Instant,
    ) -> Result<String, ApiError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Request {
            stream_name: String,
            #[serde(default)]
            #[expect(dead_code, reason = "it says whether the consumer may exist")]
            action: String,
            config: ConsumerConfig,
        }
        let version = self.version();
        let request = serde_json::from_slice::<Request>(payload);
        let request = request.map_err(|error| invalid_json(version, &error))?;
        if request.stream_name != stream {
            let text = "stream name in subject does not match request";
            return Err(ApiError::new(400, 10056, text));
        }
        if !self.streams.contains_key(stream) {
            return Err(ApiError::stream_not_found());
        }
        let config = request.config.complete(version)?;
        let name = name.map_or_else(
            || {
                self.names += 1;
                format!("ephemeral{}", self.names)
            },
            str::to_owned,
        );
        let key = (stream.to_owned(), name.clone());
        if let Some(consumer) = self.consumers.get(&key) {
            consumer.config.check_update(&config)?;
            return Ok(name);
        }
        self.check_replicas(config.num_replicas)?;
        let stream = &self.streams[stream];
        let live = self.live_nodes();
        let node = match &stream.node {
            Some(node) => node.clone(),
            None => live[self.rng.random_range(0..live.len())].clone(),
        };
        let consumer = Consumer::new(name.clone(), config, node, stream, version, now);
        self.schedule(consumer.deadline());
        self.consumers.insert(key, consumer);
        Ok(name)
    }

    fn consumer_request(
        &mut self,
        action: &str,
        stream: &str,
        name: &str,
        error: Option<ApiError>,
        interest: &Subscriptions,
        now: Instant,
    ) -> Option<Bytes> {
        let version = self.version();
        let key = (stream.to_owned(), name.to_owned());
        let not_found = match self.consumers.get(&key) {
            _ if !self.streams.contains_key(stream) => Some(ApiError::stream_not_found()),
            None => Some(ApiError::consumer_not_found()),
            // Its only server does not answer.
            Some(consumer) if !self.is_up(&consumer.node) => return None,
            Some(_) => None,
        };
        let error = error.or(not_found);
        Some(match action {
            "INFO" => {
                let consumer = self.consumers.get(&key).zip(self.streams.get(stream));
                let consumer = consumer.filter(|_| error.is_none());
                let info = |(consumer, stream): (&Consumer, _)| consumer.info(stream, version, now);
                let consumer = consumer.map(info);
                Reply::json("consumer_info", error, ConsumerReply { consumer })
            }
            "DELETE" => {
                let success = error.is_none().then_some(true);
                if success.is_some()
                    && let Some(mut consumer) = self.consumers.remove(&key)
                {
                    let out = &mut self.out;
                    consumer.delete(&mut Pulling { version, now, interest, out });
                }
                Reply::json("consumer_delete", error, Success { success, purged: None })
            }
            _ => panic!("a request that the model does not know: CONSUMER.{action}"),
        })
    }

    fn pull(
        &mut self,
        stream: &str,
        name: &str,
        payload: &[u8],
        reply: &str,
        interest: &Subscriptions,
        now: Instant,
    ) -> bool {
        let version = self.version();
        let key = (stream.to_owned(), name.to_owned());
        let nodes = &self.nodes;
        let consumer = self.consumers.get_mut(&key);
        let consumer =
            consumer.filter(|consumer| nodes.get(&consumer.node) == Some(&NodeState::Up));
        let Some((consumer, stream)) = consumer.zip(self.streams.get_mut(stream)) else {
            // The older version subscribes to the whole API, and says nothing.
            return version == Version::V2_9;
        };
        stream.expire(now);
        let out = &mut self.out;
        consumer.pull(reply, payload, stream, &mut Pulling { version, now, interest, out });
        let deadline = consumer.deadline();
        self.schedule(deadline);
        true
    }
}

fn invalid_json(version: Version, error: &serde_json::Error) -> ApiError {
    ApiError::new(
        400,
        10025,
        match version {
            Version::V2_9 => "invalid JSON".to_owned(),
            Version::V2_15 => format!("invalid JSON: {error}"),
        },
    )
}

/// A server that is not the leader waits this long with its error, so that a leader can answer.
const ERROR_DELAY: Duration = Duration::from_millis(500);
